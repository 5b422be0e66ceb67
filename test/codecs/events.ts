/** Shared code of the tests of CloudEvents: the message around an event, codecs run at once, and the published scenarios. */
import { Headers, Outgoing, type PayloadCodec } from "@millrace/core"
import { Effect, Exit } from "effect"
import { assert } from "vitest"
import { vector } from "./support.ts"

export const systems = ["kafka", "http", "nats", "rabbitmq", "mqtt", "redis", "memory"] as const

/** The message around a body on a broker. */
export const around = (
  system: string,
  headers: Readonly<Record<string, string>> = {}
): PayloadCodec.Metadata => ({
  system,
  channel: "orders",
  key: undefined,
  keyBytes: undefined,
  headers: Headers.fromRecord(headers),
  fields: Headers.toFields(Headers.fromRecord(headers)),
  attempt: 1,
  timestamp: undefined
})

/** The headers that a reader sees of what a codec has written. */
export const seen = (encoded: PayloadCodec.Encoded, before: Readonly<Record<string, string>> = {}): Headers.Headers => {
  const message = new Outgoing("orders", undefined, undefined, Headers.fromRecord(before))
  return Headers.fromFields(message.withBody(encoded).fields)
}

export const encoded = (
  codec: PayloadCodec.PayloadCodec,
  value: unknown,
  metadata: PayloadCodec.Metadata
): PayloadCodec.Encoded => Effect.runSync(codec.encode(value, metadata))

export const decoded = (
  codec: PayloadCodec.PayloadCodec,
  bytes: Uint8Array,
  metadata: PayloadCodec.Metadata
): unknown => Effect.runSync(codec.decode(bytes, metadata))

/** The error of reading a body. */
export const refusal = (
  codec: PayloadCodec.PayloadCodec,
  bytes: Uint8Array,
  metadata: PayloadCodec.Metadata
): PayloadCodec.PayloadError => {
  const exit = Effect.runSyncExit(Effect.flip(codec.decode(bytes, metadata)))
  assert.isTrue(Exit.isSuccess(exit), `nothing was refused: ${String(exit)}`)
  return Exit.getSuccess(exit).pipe((found) => found._tag === "Some" ? found.value : assert.fail("no error"))
}

/** One scenario of the conformance suite, for one media type. */
export interface Scenario {
  readonly title: string
  readonly system: "kafka" | "http"
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
  readonly attributes: Readonly<Record<string, string>>
  readonly data: unknown
}

const rows = (lines: ReadonlyArray<string>): ReadonlyArray<readonly [string, string]> =>
  lines.filter((line) => line.trim().startsWith("|")).map((line) => {
    const [, name = "", value = ""] = line.split("|").map((cell) => cell.trim())
    return [name, value] as const
  })

/** Reads the scenarios of `cloudevents/conformance`, in Gherkin, of one protocol. */
export const scenarios = (system: "kafka" | "http"): ReadonlyArray<Scenario> =>
  vector(`cloudevents-${system}.feature`).split(/^ *Scenario(?: Outline)?: /m).slice(1).flatMap((text) => {
    const [rest = "", examples = ""] = text.split(/^ *Examples:/m)
    const types = rows(examples.split("\n")).slice(1).map(([type]) => type)
    return (types.length === 0 ? [""] : types).map((type): Scenario => {
      const all = rest.replaceAll("<contentType>", type)
      const [given = "", then = ""] = all.split("Then the attributes are:")
      const [first = "", data = ""] = [given, then].map((part) => /"""\n([\s\S]*?)"""/.exec(part)?.[1] ?? "")
      const attributes = Object.fromEntries(rows(then.split("\n")).slice(1))
      const title = `${all.split("\n")[0]} ${type} on ${system}`
      if (system === "kafka") {
        const headers = Object.fromEntries(rows(given.split("\n")).slice(1))
        return { title, system, headers, body: first, attributes, data: JSON.parse(data) }
      }
      const [head = "", body = ""] = first.split(/\n\s*\n/)
      const headers = Object.fromEntries(
        head.trim().split("\n").slice(1).map((line) => {
          const at = line.indexOf(":")
          return [line.slice(0, at).trim().toLowerCase(), line.slice(at + 1).trim()]
        })
      )
      return { title, system, headers, body, attributes, data: JSON.parse(data) }
    })
  })
