/** What a hostile client does on one connection, each until the server ends it or its time is over. */
import { once } from "node:events"
import { connect, type Socket } from "node:net"
import { setTimeout as sleep } from "node:timers/promises"

/** A connection that tells nobody of its errors: the server may end it at any time, which is the point. */
const open = async (port: number): Promise<Socket> => {
  const socket = connect(port, "127.0.0.1")
  socket.on("error", () => {})
  await once(socket, "connect").catch(() => {})
  return socket
}

const isOpen = (socket: Socket): boolean => !socket.destroyed && socket.writable

/** Reads and forgets until the end, or for so long. */
const drain = async (socket: Socket, millis: number): Promise<void> => {
  if (socket.destroyed) return
  socket.resume()
  await Promise.race([once(socket, "close").catch(() => {}), sleep(millis)])
}

/** Sends a text, reads what comes, and leaves. */
const say = (text: string | Uint8Array, millis = 1_000) => async (port: number): Promise<void> => {
  const socket = await open(port)
  socket.write(text)
  await drain(socket, millis)
  socket.destroy()
}

const head = (method: string, path: string, ...fields: ReadonlyArray<string>): string =>
  [`${method} ${path} HTTP/1.1`, "host: x", ...fields, "", ""].join("\r\n")

const json = (body: string): string =>
  head("POST", "/orders", "content-type: application/json", `content-length: ${body.length}`) + body

/** Sends piece after piece, with a wait between. */
const drip = (pieces: Iterable<string>, wait: number) => async (port: number): Promise<void> => {
  const socket = await open(port)
  socket.resume()
  for (const piece of pieces) {
    if (!isOpen(socket)) break
    socket.write(piece)
    await sleep(wait)
  }
  socket.destroy()
}

const smuggled: ReadonlyArray<string> = [
  head("POST", "/orders", "content-length: 5", "transfer-encoding: chunked") +
  "0\r\n\r\nGET /quiet/7 HTTP/1.1\r\nhost: x\r\n\r\n",
  head("POST", "/orders", "content-length: 5", "content-length: 6") + "abcdef",
  head("POST", "/orders", "transfer-encoding: chunked, identity") + "0\r\n\r\n",
  head("POST", "/orders", "transfer-encoding : chunked") + "0\r\n\r\n",
  head("POST", "/orders", "transfer-encoding: chunked") + "5\r\nabcdefg\r\n0\r\n\r\n",
  head("POST", "/orders", "transfer-encoding: chunked") + "0x5\r\nabcde\r\n0\r\n\r\n",
  head("GET", "/quiet/7", "host: y"),
  "GET /quiet/7 HTTP/1.1\r\nhost: x/y\r\n\r\n",
  "GET /quiet/7 HTTP/1.1\n host: x\n\n",
  "GET http://y/quiet/7 HTTP/1.1\r\nhost: x\r\nx: a\rb\r\n\r\n"
]

/** The attacks, by name. */
export const attacks: { readonly [name: string]: (port: number) => Promise<void> } = {
  "a byte of a head every 100 ms": drip(head("GET", "/quiet/1", `x: ${"y".repeat(400)}`), 100),
  "a field every 200 ms": drip(
    function*() {
      yield "GET /quiet/1 HTTP/1.1\r\nhost: x\r\n"
      for (let i = 0; i < 300; i++) yield `x-${i}: y\r\n`
    }(),
    200
  ),
  "half a head": say("GET /quiet/1 HTTP/1.1\r\nhost:", 10_000),
  "no byte at all": say("", 10_000),
  "a byte of a body every 200 ms": drip(
    function*() {
      yield head("POST", "/orders", "content-type: application/json", "content-length: 100000")
      for (let i = 0; i < 100; i++) yield " "
    }(),
    200
  ),
  "200 requests at once": say(head("GET", "/quiet/1").repeat(200), 2_000),
  "200 requests at once, never read": async (port) => {
    const socket = await open(port)
    socket.pause()
    socket.write(head("GET", "/large").repeat(200))
    await sleep(3_000)
    socket.destroy()
  },
  "an answer that is never read": async (port) => {
    const socket = await open(port)
    socket.pause()
    socket.write(head("GET", "/large"))
    await sleep(3_000)
    socket.destroy()
  },
  "an answer read by a byte": async (port) => {
    const socket = await open(port)
    socket.write(head("GET", "/large"))
    for (let i = 0; i < 20 && isOpen(socket); i++) {
      socket.read(1)
      await sleep(100)
    }
    socket.destroy()
  },
  "HEAD, a storm": say(head("HEAD", "/large").repeat(300), 2_000),
  "gone before the answer": async (port) => {
    for (let i = 0; i < 20; i++) {
      const socket = await open(port)
      socket.write(head("GET", "/slow"))
      await sleep(20)
      socket.resetAndDestroy()
    }
  },
  "gone in the middle of a body": async (port) => {
    for (let i = 0; i < 20; i++) {
      const socket = await open(port)
      socket.write(head("POST", "/orders", "content-type: application/json", "content-length: 1000") + "{")
      await sleep(10)
      socket.resetAndDestroy()
    }
  },
  "gone at once": async (port) => {
    for (let i = 0; i < 50; i++) (await open(port)).resetAndDestroy()
  },
  "JSON of 100,000 levels": say(json("[".repeat(100_000))),
  "JSON of a mebibyte": say(json(`{"id":"${"x".repeat(1024 * 1024)}"}`)),
  "JSON of 400,000 values": say(json(`[${"1,".repeat(400_000)}1]`)),
  "a body without an end": async (port) => {
    const socket = await open(port)
    socket.resume()
    socket.write(head("POST", "/orders", "content-type: application/json", "transfer-encoding: chunked"))
    const chunk = `10000\r\n${" ".repeat(65_536)}\r\n`
    for (let i = 0; i < 64 && isOpen(socket); i++) {
      socket.write(chunk)
      await sleep(5)
    }
    socket.destroy()
  },
  "a body that no route reads": say(head("POST", "/unread", "content-length: 4000000") + "x".repeat(2_000_000), 2_000),
  "a body that is asked for and never sent": say(
    head("POST", "/orders", "content-type: application/json", "content-length: 10", "expect: 100-continue"),
    8_000
  ),
  "an upgrade": say(head("GET", "/quiet/1", "connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13")),
  "HTTP/2 by prior knowledge": say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
  "bytes that are no HTTP": say(Buffer.from(Array.from({ length: 4096 }, (_, i) => i * 7 & 255))),
  "a head of a mebibyte": say(head("GET", "/quiet/1", `x: ${"y".repeat(1024 * 1024)}`)),
  "2,000 fields": say(head("GET", "/quiet/1", ...Array.from({ length: 2_000 }, (_, i) => `x${i}: y`))),
  ...Object.fromEntries(smuggled.map((text, i) => [`a request within a request, form ${i + 1}`, say(text, 500)]))
}
