/** One connection to a server, by a socket: bytes are sent unchanged, and answers are read as RFC 9112 says. */
import { connect, type Socket } from "node:net"
import { setTimeout as sleep } from "node:timers/promises"
import { closesOf, type Exchange, finalsOf, type Part } from "./Case.ts"

/** A received answer. */
export interface Answer {
  readonly status: number
  /** Lower-case names, in the order of their lines. */
  readonly fields: ReadonlyArray<readonly [name: string, value: string]>
  readonly body: string
}

/** The answers on one connection. */
export interface Received {
  readonly answers: ReadonlyArray<Answer>
  /** Interim answers of 1xx. */
  readonly interim: ReadonlyArray<Answer>
  readonly isClosed: boolean
  /** The flaw of the received bytes. */
  readonly malformed: string | undefined
}

const valueOf = (answer: Answer, name: string): string | undefined => answer.fields.find(([each]) => each === name)?.[1]

const headOf = (text: string): Answer => {
  const [line = "", ...lines] = text.split("\r\n")
  const [, status] = /^HTTP\/1\.1 (\d{3})(?: |$)/.exec(line) ?? []
  if (status === undefined) throw new Error(`no status line: ${JSON.stringify(line.slice(0, 100))}`)
  const fields = lines.map((each): readonly [string, string] => {
    const [, name, value] = /^([!#$%&'*+.^_`|~\w-]+):[ \t]*(.*?)[ \t]*$/.exec(each) ?? []
    if (name === undefined) throw new Error(`no field: ${JSON.stringify(each.slice(0, 100))}`)
    return [name.toLowerCase(), value ?? ""]
  })
  return { status: Number(status), fields, body: "" }
}

/** The joined chunks of a chunked body; undefined until all have arrived. */
const unchunk = (bytes: Buffer): { readonly body: Buffer; readonly size: number } | undefined => {
  const parts: Array<Buffer> = []
  let at = 0
  for (;;) {
    const end = bytes.indexOf("\r\n", at)
    if (end < 0) return undefined
    const size = Number.parseInt(bytes.subarray(at, end).toString("latin1"), 16)
    if (!Number.isInteger(size)) throw new Error("no size of a chunk")
    if (size === 0) {
      const last = bytes.indexOf("\r\n\r\n", end)
      return last < 0 ? undefined : { body: Buffer.concat(parts), size: last + 4 }
    }
    if (bytes.length < end + 2 + size + 2) return undefined
    parts.push(bytes.subarray(end + 2, end + 2 + size))
    at = end + 2 + size + 2
  }
}

/** Reads answers from bytes, one after another. */
class Reader {
  readonly answers: Array<Answer> = []
  readonly interim: Array<Answer> = []
  malformed: string | undefined
  #bytes = Buffer.alloc(0)
  readonly #heads: ReadonlyArray<boolean>

  constructor(heads: ReadonlyArray<boolean>) {
    this.#heads = heads
  }

  push(chunk: Buffer, isClosed: boolean): void {
    this.#bytes = Buffer.concat([this.#bytes, chunk])
    try {
      while (this.#next(isClosed));
      if (isClosed && this.#bytes.length > 0) throw new Error("an answer that was cut")
    } catch (error) {
      this.malformed = error instanceof Error ? error.message : String(error)
    }
  }

  #next(isClosed: boolean): boolean {
    if (this.malformed !== undefined) return false
    const end = this.#bytes.indexOf("\r\n\r\n")
    if (end < 0) return false
    const answer = headOf(this.#bytes.subarray(0, end).toString("latin1"))
    const rest = this.#bytes.subarray(end + 4)
    if (answer.status < 200) return this.#take(this.interim, answer, Buffer.alloc(0), end + 4)
    if (this.#heads[this.answers.length] === true || answer.status === 204 || answer.status === 304) {
      return this.#take(this.answers, answer, Buffer.alloc(0), end + 4)
    }
    if (/chunked/i.test(valueOf(answer, "transfer-encoding") ?? "")) {
      const found = unchunk(rest)
      return found !== undefined && this.#take(this.answers, answer, found.body, end + 4 + found.size)
    }
    const length = valueOf(answer, "content-length")
    if (length === undefined) return isClosed && this.#take(this.answers, answer, rest, this.#bytes.length)
    if (rest.length < Number(length)) return false
    return this.#take(this.answers, answer, rest.subarray(0, Number(length)), end + 4 + Number(length))
  }

  #take(list: Array<Answer>, answer: Answer, body: Buffer, size: number): boolean {
    list.push({ ...answer, body: body.toString() })
    this.#bytes = this.#bytes.subarray(size)
    return true
  }
}

/** The longest duration of one exchange, in milliseconds. */
const patience = 10_000

const open = (host: string, port: number): Promise<Socket> =>
  new Promise((resolve, reject) => {
    const socket = connect(port, host, () => resolve(socket)).once("error", reject)
  })

/** Runs one exchange; `fill` puts the paths of the service into the texts to send. */
export const run = async (
  host: string,
  port: number,
  exchange: Exchange,
  fill: (text: string) => string
): Promise<Received> => {
  const finals = finalsOf(exchange)
  const reader = new Reader(finals.map(({ head }) => head === true))
  const socket = await open(host, port)
  let isClosed = false
  let wake = () => {}
  socket.on("data", (chunk: Buffer) => {
    reader.push(chunk, false)
    wake()
  })
  // a server may close before all bytes were sent
  socket.on("error", () => {})
  socket.on("close", () => {
    isClosed = true
    reader.push(Buffer.alloc(0), true)
    wake()
  })
  const late = AbortSignal.timeout(patience)
  late.addEventListener("abort", () => wake())
  const until = async (isSo: () => boolean): Promise<void> => {
    while (!isSo() && !isClosed && reader.malformed === undefined && !late.aborted) {
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    }
  }
  const send = async (part: Part): Promise<void> => {
    if (typeof part === "string") return void socket.write(fill(part), "latin1")
    if (part instanceof Uint8Array) return void socket.write(part)
    if ("millis" in part) return sleep(part.millis)
    return until(() => reader.answers.length + reader.interim.length >= part.answers)
  }
  try {
    for (const part of exchange.send) if (!isClosed) await send(part)
    await until(() => reader.answers.length >= finals.length)
    if (closesOf(exchange)) await until(() => isClosed)
    return { answers: reader.answers, interim: reader.interim, isClosed, malformed: reader.malformed }
  } finally {
    socket.destroy()
  }
}
