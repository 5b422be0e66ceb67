/**
 * A message broker in a folder: a file for each channel, and a small one for each group with its position.
 *
 * One broker uses a folder at a time. A channel has one partition, which one consumer of a group reads while the others
 * stand by, and is never shortened.
 */
import { BrokerError, delivery, Engine, Features, Headers } from "@millrace/core"
import type { Driver, Origin, Outgoing, Reader } from "@millrace/core"
import { Cache, Clock, Data, Deferred, Duration, Effect, Exit } from "effect"
import { FileSystem, Option, Scope, Semaphore, Stream } from "effect"
import type { PlatformError } from "effect"
import { Damaged, type Entry, type InUse, lock, open, replace } from "./appendLog.ts"

const system = "file"
const maximumBytes = 64 * 1024 * 1024

interface Head {
  readonly at: number
  readonly key: string | null
  readonly fields: ReadonlyArray<readonly [name: string, base64: string | null]>
}

const encoded = (bytes: Uint8Array | null) => bytes === null ? null : Buffer.from(bytes).toString("base64")
const decoded = (base64: string | null) => base64 === null ? null : Buffer.from(base64, "base64")

const entryOf = ({ fields, keyBytes, native, payload }: Outgoing<Uint8Array>, at: number): Entry => {
  const base64 = fields.map(([name, value]) => [name, encoded(value)] as const)
  const head: Head = { at: native?.timestamp ?? at, key: encoded(keyBytes ?? null), fields: base64 }
  return { head: Buffer.from(JSON.stringify(head)), body: native?.tombstone === true ? null : payload }
}

const headOf = ({ head }: Entry): Head => JSON.parse(Buffer.from(head).toString())

const keyOf = (entry: Entry) => decoded(headOf(entry).key) ?? undefined

const reader: Reader<Entry> = {
  // A text for any bytes, since messages without one have no lane.
  key: (entry) => keyOf(entry)?.toString(),
  keyBytes: keyOf,
  headers: (entry) => Headers.fromFields(reader.fields(entry)),
  fields: (entry) => headOf(entry).fields.map(([name, value]) => [name, decoded(value)]),
  timestamp: (entry) => headOf(entry).at
}

/** The attempt is always 1, since nothing here counts deliveries. */
const deliver = (origin: Origin, first: number, entries: ReadonlyArray<Entry>) =>
  entries.map((entry, index) => delivery(origin, reader, entry, first + index, entry.body, 1))

class Closed extends Data.TaggedError("Closed")<{ readonly message: string }> {}

const reasons = { Closed: "Lost", Damaged: "Unknown", InUse: "Conflict", PlatformError: "Unknown" } as const

/** What a file system says, as a broker says it. A full disk may have room again, a damaged file stays damaged. */
const failing = (operation: BrokerError.BrokerError["operation"]) =>
  Effect.mapError((cause: Closed | Damaged | InUse | PlatformError.PlatformError) =>
    BrokerError.make({
      system,
      operation,
      reason: reasons[cause._tag],
      message: cause.message,
      failure: cause._tag === "Damaged" ? "permanent" : "transient",
      cause
    })
  )

const refuse = (operation: BrokerError.BrokerError["operation"], reason: BrokerError.Reason, message: string) =>
  Effect.fail(BrokerError.make({ system, operation, reason, message }))

const capabilities: Driver.Capabilities = {
  settlement: "position",
  ordering: "channel",
  redelivery: true,
  delay: false,
  deadLetter: false,
  attempts: false,
  groups: true,
  fanOut: true,
  retention: true,
  replay: true,
  persistence: true,
  browse: true,
  tombstones: true,
  partitions: false,
  timestamps: "milliseconds",
  transactions: false,
  patterns: false,
  lag: true,
  maximumBytes
}

/** Opens a folder, and makes it where it is missing; it is free again when the scope closes. */
export const make = Effect.fn(function*(folder: string) {
  const fs = yield* FileSystem.FileSystem
  yield* fs.makeDirectory(folder, { recursive: true })
  yield* lock(folder)
  const files = yield* Scope.fork(yield* Scope.Scope)
  const opened = Effect.fnUntraced(function*(channel: string) {
    const scope = yield* Scope.fork(files)
    const file = open(fs, folder, `${encodeURIComponent(channel)}.log`).pipe(Scope.provide(scope))
    return yield* Effect.onError(file, (cause) => Scope.close(scope, Exit.failCause(cause)))
  })
  const logs = yield* Cache.makeWith(opened, {
    capacity: Infinity,
    timeToLive: (exit) => Exit.isSuccess(exit) ? Duration.infinity : Duration.zero
  })
  const seats = new Map<string, Semaphore.Semaphore>()
  const saving = Semaphore.makeUnsafe(1)
  const closed = yield* Deferred.make<never, Closed>()
  const whileOpen = <A, E>(effect: Effect.Effect<A, E>) =>
    Effect.suspend((): Effect.Effect<A, E | Closed> => Deferred.isDoneUnsafe(closed) ? Deferred.await(closed) : effect)
  const logOf = (channel: string) => whileOpen(Cache.get(logs, channel))
  /** Positions are written one at a time, and each to its end: a rename cannot be called back. */
  const save = (effect: Effect.Effect<void, PlatformError.PlatformError>) =>
    saving.withPermit(Effect.uninterruptible(whileOpen(effect)))
  // Scopes close backwards: nobody reads or writes any more when the files are closed and the lock is given up.
  yield* Effect.addFinalizer(() => {
    const failed = Deferred.fail(closed, new Closed({ message: `${folder} was closed` }))
    return Effect.andThen(failed, saving.withPermit(Effect.void))
  })

  const pathOf = (channel: string, group: string) =>
    `${folder}/${encodeURIComponent(channel)}@${encodeURIComponent(group)}.position`

  const consume: Driver.Driver["consume"] = ({ batch, channel, from, group, handler }, sink) =>
    Effect.gen(function*() {
      const log = yield* logOf(channel)
      const path = pathOf(channel, group)
      // At once, since a group that begins at the latest message may come back before it has done one.
      const begin = replace(fs, path, `${from === "latest" ? log.count() : 0}`)
      yield* save(Effect.flatMap(fs.exists(path), (there) => there ? Effect.void : begin))
      const position = Effect.flatMap(fs.readFileString(path), (text) =>
        Number(text) <= log.count()
          ? Effect.succeed(Number(text))
          : Effect.fail(new Damaged({ message: `${path} says ${text}, and the channel has ${log.count()} messages` })))
      yield* position
      sink.ready()
      const seat = seats.get(path) ?? Semaphore.makeUnsafe(1)
      seats.set(path, seat)
      yield* seat.takeScoped(1)
      const origin = { system, channel, group, partition: 0, handler, holdLimit: Infinity }
      const lease: Driver.Lease = {
        partition: 0,
        commit: (position) => save(replace(fs, path, `${position}`)).pipe(failing("settle"))
      }
      let next = yield* position
      sink.open(lease)
      while (true) {
        yield* log.until(next)
        const entries = yield* log.read(next, batch)
        sink.polled()
        const deliveries = deliver(origin, next, entries)
        next += entries.length
        yield* sink.offer(lease, deliveries)
      }
    }).pipe(Effect.raceFirst(Deferred.await(closed)), failing("consume"))

  const publish: Driver.Driver["publish"] = Effect.fnUntraced(function*(messages) {
    const long = messages.find(({ payload }) => payload.length > maximumBytes)
    if (long !== undefined) {
      return yield* refuse("publish", "TooLarge", `${long.channel}: a body has at most ${maximumBytes} bytes`)
    }
    const refused = messages.map((message) => Features.refuse(system, capabilities, message)).find((error) => error)
    if (refused !== undefined) return yield* refused
    const at = yield* Clock.currentTimeMillis
    const append = ([channel, batch]: readonly [string, ReadonlyArray<Outgoing<Uint8Array>>]) =>
      Effect.flatMap(logOf(channel), (log) => log.append(batch.map((message) => entryOf(message, at))))
    const channels = Map.groupBy(messages, ({ channel }) => channel)
    yield* Effect.forEach(channels, append, { concurrency: "unbounded", discard: true }).pipe(failing("publish"))
  })

  const declare: Driver.Driver["declare"] = ({ channel, partitions = 1, settings = {} }) =>
    partitions !== 1 || Object.keys(settings).length > 0
      ? refuse("declare", "Unsupported", `${channel}: a channel in a folder has one partition and no settings`)
      : Effect.asVoid(logOf(channel)).pipe(failing("declare"))
  const browse: Driver.Driver["browse"] = (channel) =>
    Stream.unwrap(Effect.gen(function*() {
      const log = yield* logOf(channel).pipe(failing("browse"))
      const origin = { system, channel, group: "", partition: 0, handler: "", holdLimit: Infinity }
      const end = log.count()
      const read = Effect.fnUntraced(function*(next: number) {
        const entries = next < end ? yield* whileOpen(log.read(next, end - next)) : []
        const rest = entries.length === 0 ? Option.none() : Option.some(next + entries.length)
        return [deliver(origin, next, entries), rest] as const
      }, failing("browse"))
      return Stream.paginate(0, read)
    }))
  const check = whileOpen(Effect.void).pipe(failing("check"))
  const lag: Driver.Driver["lag"] = Effect.fnUntraced(function*(channel, group) {
    const path = pathOf(channel, group)
    if (!(yield* whileOpen(fs.exists(path)))) return []
    const log = yield* logOf(channel)
    return [{ partition: 0, messages: log.count() - Number(yield* fs.readFileString(path)) }]
  }, failing("lag"))

  return { system, capabilities, consume, publish, declare, browse, check, lag } satisfies Driver.Driver
}, failing("connect"))

/** A broker in a folder. */
export const layer = (folder: string) => Engine.layer(make(folder))
