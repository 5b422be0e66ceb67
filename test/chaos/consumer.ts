// A consumer of a chaos run: it writes a line as each handler begins, there at once, and takes its time for one in eight.
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Channel, Lanes, type Message, Subscription } from "@millrace/core"
import { Effect, Exit, Layer, Schedule } from "effect"
import { openSync, writeSync } from "node:fs"
import { subjects } from "./subjects.ts"

/** What a life is given on its command line, as JSON. */
export interface Life {
  readonly life: number
  readonly subject: string
  readonly address: string
  /** Which of the members it stands in for; names what a broker knows its members by. */
  readonly slot: number
  readonly channel: string
  readonly group: string
  readonly file: string
  readonly inFlight: number
  readonly span: number
  readonly isOrdered: boolean
  /** Milliseconds that one message of eight takes at most. */
  readonly slowest: number
}

// what the parent wrote
const options = JSON.parse(process.argv[2]!) as Life
const file = openSync(options.file, "a")
const text = new TextDecoder()

let count = 0
const handle = (message: Message<Uint8Array>): Effect.Effect<void> =>
  Effect.suspend(() => {
    writeSync(file, `${options.life} ${text.decode(message.payload)}\n`)
    return count++ % 8 === 0 ? Effect.sleep((count * 7) % (options.slowest + 1)) : Exit.void
  })

const consumer = Subscription.make(Channel.bytes(options.channel), {
  group: options.group,
  name: "handle",
  lanes: options.isOrdered ? Lanes.key(64) : Lanes.unordered(64),
  inFlight: { messages: options.inFlight },
  hold: { span: options.span },
  restart: { cap: "1 second" },
  grace: { drain: "5 seconds" }
}, handle)

const layer = subjects[options.subject]!.layer(options.address, options.slot)

// a subscription that cannot start is its program's business: this one waits for its broker
const program = Effect.scoped(
  Layer.build(Subscription.layer(consumer).pipe(Layer.provide(layer))).pipe(
    Effect.andThen(Effect.sync(() => writeSync(1, "ready\n"))),
    Effect.andThen(Effect.never)
  )
).pipe(
  Effect.retry({ while: (error) => error.retriable, schedule: Schedule.spaced("500 millis") })
)

NodeRuntime.runMain(program, {
  // a service that was told to end, and did, has not failed
  teardown: (exit, onExit) => onExit(Exit.isSuccess(exit) || Exit.hasInterrupts(exit) ? 0 : 1)
})
// from here on a signal is heard
writeSync(1, "up\n")
