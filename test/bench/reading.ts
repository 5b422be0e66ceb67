/** What the benchmarks on real servers share: a channel full of messages, which each variant reads to its end. */
import { type Broker, Channel, type Handler, type Lanes, type Message, Middleware, Subscription } from "@millrace/core"
import { Effect, Exit, Layer, Scope } from "effect"
import { type Measured, type Shared, stopwatch } from "./Bench.ts"

/** Bytes of a body. */
export const size = 250

/** A body: JSON, since some peers parse whatever they read, and a text, which costs them least. */
export const body = Buffer.from(JSON.stringify("x".repeat(size - 2)))

/** What `share` said of a server, in the processes of the variants. */
export const environment = (name: string): string => {
  const value = process.env[name]
  if (value === undefined) throw new Error(`${name} is set by the process that starts the variants`)
  return value
}

/** A server for all variants, with what they are to read; it goes after the last, or at once where it fails. */
export const serve = async (start: Effect.Effect<Shared["environment"], unknown, Scope.Scope>): Promise<Shared> => {
  const scope = Scope.makeUnsafe()
  const close = () => Effect.runPromise(Scope.close(scope, Exit.void))
  try {
    return { environment: await Effect.runPromise(Scope.provide(start, scope)), close }
  } catch (error) {
    await close()
    throw error
  }
}

let names = 0
/** A name that nothing else has: of a group that has read nothing yet, or of a queue. */
export const fresh = (): string => `bench-${process.pid}-${++names}`

/**
 * Counts messages, starts the clock after the first third, so that what is compiled while it runs is compiled, and
 * completes with the last. Who reads `page` messages at once may read so many beyond.
 */
export class Progress {
  readonly finished: Promise<Measured>
  private readonly all: number
  private readonly page: number
  private readonly watch: typeof stopwatch
  private seen = 0
  private bytes = 0
  private from = 0
  private stop: ((count: number) => Measured) | undefined
  private finish: (measured: Measured | Promise<Measured>) => void = () => {}

  constructor(all: number, options: { readonly page?: number; readonly watch?: typeof stopwatch } = {}) {
    this.all = all
    this.page = options.page ?? 1
    this.watch = options.watch ?? stopwatch
    this.finished = new Promise((resolve) => this.finish = resolve)
  }

  /** Whether all is read. */
  get complete(): boolean {
    return this.seen >= this.all
  }

  add(bytes: number, messages = 1): void {
    this.bytes += bytes
    this.seen += messages
    if (this.stop === undefined && this.seen >= this.all / 3) {
      this.from = this.seen
      this.stop = this.watch()
    }
    if (this.seen < this.all) return
    this.finish(
      this.seen < this.all + this.page && this.bytes === this.seen * size
        ? this.stop!(this.seen - this.from)
        : Promise.reject(
          new Error(`${this.seen} messages with ${this.bytes} bytes were read, and there are ${this.all}`)
        )
    )
  }
}

let hops = 0
const trivial = Middleware.make()({ name: "Trivial", stage: "consume" }, (next) => (message) => {
  hops++
  return next(message)
})

/** A subscription with eight middlewares reads all; `begin` is called when it reads. */
export const read = <E>(
  progress: Progress,
  broker: Layer.Layer<Broker.Broker, E>,
  channel: string,
  options: { readonly group: string; readonly lanes: Lanes.Lanes },
  begin: () => Promise<void> = () => Promise.resolve()
): Promise<Measured> => {
  let handler: Handler<Message<Uint8Array>, void> = ({ payload }) => {
    progress.add(payload.length)
    return Effect.void
  }
  for (let i = 0; i < 8; i++) handler = trivial(handler)
  const subscription = Subscription.make(Channel.bytes(channel), options, handler)
  const layer = Layer.provide(Subscription.layer(subscription), broker)
  return Effect.runPromise(Effect.provide(Effect.promise(() => begin().then(() => progress.finished)), layer))
}
