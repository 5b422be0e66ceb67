/** One command to a Redis server, without a client library. */
import { connect } from "node:net"
import { basename, join } from "node:path"
import { findTool } from "./process.ts"

/** The reply, or undefined if it is incomplete: a line, or the text that follows its length. */
const replyOf = (text: string): string | undefined => {
  const end = text.indexOf("\r\n")
  if (end < 0) return undefined
  const line = text.slice(1, end)
  if (text[0] !== "$") return text[0] === "*" ? text : line
  const from = end + 2
  return text.length >= from + Number(line) + 2 ? text.slice(from, from + Number(line)) : undefined
}

/**
 * Sends an inline command and resolves with the text of its reply; rejects with the server's error, or after 2 seconds
 * without activity.
 */
export const command = (port: number, line: string): Promise<string> =>
  new Promise((resolve, reject) => {
    const socket = connect(port, "127.0.0.1")
    let text = ""
    socket.setEncoding("utf8")
    socket.setTimeout(2_000, () => socket.destroy(new Error(`no answer to ${line}`)))
    socket.once("connect", () => socket.write(`${line}\r\n`))
    socket.on("data", (chunk) => {
      text += String(chunk)
      const reply = replyOf(text)
      if (reply === undefined) return
      socket.destroy()
      if (text.startsWith("-")) reject(new Error(`${line}: ${reply}`))
      else resolve(reply)
    })
    socket.once("error", reject)
    socket.once("close", () => reject(new Error(`the connection ended before the answer to ${line}`)))
  })

/** Repeats a command every 20 ms until the reply is right; rejects after `patience` milliseconds with the last reply. */
export const until = async (
  port: number,
  line: string,
  isRight: (reply: string) => boolean,
  patience: number
): Promise<void> => {
  const end = Date.now() + patience
  let last = ""
  while (true) {
    try {
      last = await command(port, line)
      if (isRight(last)) return
    } catch (error) {
      last = String(error)
    }
    if (Date.now() > end) throw new Error(`${line} did not become right in ${patience} ms: ${last}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

/** The server executable: `redis-server` or `valkey-server` in a folder, or `redis-server` on the PATH. */
export const findServer = (folder: string | undefined): string | undefined =>
  folder === undefined
    ? findTool("redis-server")
    : ["redis-server", "valkey-server"].map((name) => join(folder, name))
      .find((file) => findTool(basename(file), [folder]) === file)
