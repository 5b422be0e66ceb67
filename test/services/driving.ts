/** What the tests of every driver need: names, bodies, messages, and to wait for what they cause. */
import { Headers, type NativeParts, Outgoing } from "@millrace/core"
import { Effect } from "effect"

const encoder = new TextEncoder()
const decoder = new TextDecoder()

let count = 0

/** A name that no other test uses. */
export const fresh = (what: string): string => `${what}-${process.pid}-${Date.now()}-${++count}`

/** Bytes of text. */
export const bytes = (text: string): Uint8Array => encoder.encode(text)

/** Text of bytes. */
export const textOf = (body: Uint8Array): string => decoder.decode(body)

/** A message ready to be published. */
export const outgoing = (
  channel: string,
  body: string | Uint8Array,
  options?: {
    readonly key?: string
    readonly headers?: { readonly [name: string]: string }
    readonly native?: NativeParts
  }
): Outgoing<Uint8Array> =>
  new Outgoing(
    channel,
    typeof body === "string" ? bytes(body) : body,
    options?.key,
    Headers.fromRecord(options?.headers ?? {}),
    options?.native
  )

/** Waits until it is so; a test that waits in vain ends by its own time limit. */
export const eventually = (isSo: () => boolean | Promise<boolean>): Effect.Effect<void> =>
  Effect.flatMap(
    Effect.promise(async () => isSo()),
    (so) => so ? Effect.void : Effect.andThen(Effect.sleep("10 millis"), eventually(isSo))
  )
