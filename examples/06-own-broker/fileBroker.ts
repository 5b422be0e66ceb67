/**
 * A message broker in a folder: a file for each channel, and a small one for each group with its position.
 *
 * One broker uses a folder at a time. A channel has one partition, which one consumer of a group reads while the others
 * stand by, and is never shortened.
 */
import {
  type Broker,
  BrokerError,
  delivery,
  type Driver,
  Engine,
  Headers,
  type Origin,
  type Outgoing,
  type Reader
} from "@millrace/core"
import {
  Cache,
  Clock,
  Data,
  Deferred,
  Duration,
  Effect,
  Exit,
  FileSystem,
  type Layer,
  Option,
  type PlatformError,
  Scope,
  Semaphore,
  Stream
} from "effect"
import { type Damaged, type Entry, type InUse, lock, open, replace } from "./appendLog.ts"

const system = "file"
const maximumBytes = 64 * 1024 * 1024

interface Head {
  readonly at: number
  readonly key: string | null
  readonly fields: ReadonlyArray<readonly [name: string, base64: string | null]>
}

const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString("base64")

const entryOf = ({ headers, key, native, payload }: Outgoing<Uint8Array>, at: number): Entry => {
  const fields = native?.fields ?? []
  const replaced = new Set(fields.map(([name]) => name.toLowerCase()))
  const text = Headers.toFields(headers).filter(([name]) => !replaced.has(name))
  const keyBytes = native?.keyBytes ?? (key === undefined ? undefined : Buffer.from(key))
  const head: Head = {
    at,
    key: keyBytes === undefined ? null : base64(keyBytes),
    fields: [...fields, ...text].map(([name, value]) => [name, value === null ? null : base64(value)])
  }
  return { head: Buffer.from(JSON.stringify(head)), body: native?.tombstone === true ? null : payload }
}

const headOf = ({ head }: Entry): Head => JSON.parse(Buffer.from(head).toString())

const reader: Reader<Entry> = {
  key: (entry) => Headers.textOf(reader.keyBytes(entry) ?? null),
  keyBytes: (entry) => {
    const { key } = headOf(entry)
    return key === null ? undefined : Buffer.from(key, "base64")
  },
  headers: (entry) => Headers.fromFields(reader.fields(entry)),
  fields: (entry) =>
    headOf(entry).fields.map(([name, value]) => [name, value === null ? null : Buffer.from(value, "base64")]),
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
  persistence: true,
  browse: true,
  tombstones: true,
  transactions: false,
  maximumBytes
}

/** Opens a folder, and makes it where it is missing; it is free again when the scope closes. */
export const make = Effect.fn(function*(folder: string) {
  const fs = yield* FileSystem.FileSystem
  yield* fs.makeDirectory(folder, { recursive: true })
  yield* lock(folder)
  const files = yield* Scope.fork(yield* Scope.Scope)
  const logs = yield* Cache.makeWith(
    (channel: string) => Scope.provide(open(fs, folder, `${encodeURIComponent(channel)}.log`), files),
    { capacity: Infinity, timeToLive: (exit) => Exit.isSuccess(exit) ? Duration.infinity : Duration.zero }
  )
  const seats = new Map<string, Semaphore.Semaphore>()
  const saving = Semaphore.makeUnsafe(1)
  const closed = yield* Deferred.make<never, Closed>()
  const whileOpen = <A, E>(effect: Effect.Effect<A, E>) =>
    Effect.suspend((): Effect.Effect<A, E | Closed> => Deferred.isDoneUnsafe(closed) ? Deferred.await(closed) : effect)
  /** One write of a position at a time; the last one is over before the folder is another's. */
  const save = (effect: Effect.Effect<void, PlatformError.PlatformError>) =>
    Semaphore.withPermit(saving, whileOpen(effect))
  // Scopes close backwards: nobody reads or writes any more when the files are closed and the lock is given up.
  yield* Effect.addFinalizer(() =>
    Effect.andThen(
      Deferred.fail(closed, new Closed({ message: `${folder} was closed` })),
      Semaphore.withPermit(saving, Effect.void)
    )
  )

  const consume: Driver.Driver["consume"] = ({ batch, channel, from, group, handler }, sink) =>
    Effect.gen(function*() {
      const log = yield* whileOpen(Cache.get(logs, channel))
      const path = `${folder}/${encodeURIComponent(channel)}@${encodeURIComponent(group)}.position`
      // At once, since a group that begins at the latest message may come back before it has done one.
      const begin = replace(fs, path, `${from === "latest" ? log.count() : 0}`)
      yield* save(Effect.flatMap(fs.exists(path), (there) => there ? Effect.void : begin))
      sink.ready()
      const seat = seats.get(path) ?? Semaphore.makeUnsafe(1)
      seats.set(path, seat)
      yield* Semaphore.takeScoped(seat, 1)
      const origin = { system, channel, group, partition: 0, handler, holdLimit: Infinity }
      const lease: Driver.Lease = {
        partition: 0,
        commit: (position) => save(replace(fs, path, `${position}`)).pipe(failing("settle"))
      }
      let next = Number(yield* fs.readFileString(path))
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
    const at = yield* Clock.currentTimeMillis
    const append = ([channel, batch]: readonly [string, ReadonlyArray<Outgoing<Uint8Array>>]) =>
      Effect.flatMap(Cache.get(logs, channel), (log) => log.append(batch.map((message) => entryOf(message, at))))
    const channels = Map.groupBy(messages, ({ channel }) => channel)
    yield* whileOpen(Effect.forEach(channels, append, { concurrency: "unbounded", discard: true })).pipe(
      failing("publish")
    )
  })

  const declare: Driver.Driver["declare"] = ({ channel, partitions = 1, settings = {} }) =>
    partitions !== 1 || Object.keys(settings).length > 0
      ? refuse("declare", "Unsupported", `${channel}: a channel in a folder has one partition and no settings`)
      : Effect.asVoid(whileOpen(Cache.get(logs, channel))).pipe(failing("declare"))

  const browse: Driver.Driver["browse"] = (channel) =>
    Stream.unwrap(
      Effect.map(whileOpen(Cache.get(logs, channel)).pipe(failing("browse")), (log) => {
        const origin = { system, channel, group: "", partition: 0, handler: "", holdLimit: Infinity }
        const end = log.count()
        return Stream.paginate(
          0,
          Effect.fnUntraced(function*(next: number) {
            if (next === end) return [[], Option.none<number>()] as const
            const entries = yield* whileOpen(log.read(next, end - next)).pipe(failing("browse"))
            return [deliver(origin, next, entries), Option.some(next + entries.length)] as const
          })
        )
      })
    )

  return { system, capabilities, consume, publish, declare, browse } satisfies Driver.Driver
}, failing("connect"))

/** A broker in a folder. */
export const layer = (folder: string): Layer.Layer<Broker.Broker, BrokerError.BrokerError, FileSystem.FileSystem> =>
  Engine.layer(make(folder))
