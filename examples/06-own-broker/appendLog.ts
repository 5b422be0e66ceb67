/**
 * An append-only file of records that outlives a crash, and what goes with it: text replaced as a whole, a locked folder.
 *
 * It knows nothing of messages. In a driver for a server, the server's client library stands here.
 */
import { Gather } from "@millrace/core"
import { ByteSize, Data, Deferred, Effect, Exit, type FileSystem, Option } from "effect"
import { DatabaseSync } from "node:sqlite"
import { crc32 } from "node:zlib"

/** What is read or written at once, unless one record is longer. */
const chunkBytes = 1024 * 1024

export interface Entry {
  readonly head: Uint8Array
  readonly body: Uint8Array | null
}

/** A file that is damaged where no crash can have done it. */
export class Damaged extends Data.TaggedError("Damaged")<{ readonly message: string }> {}

/** Another broker, here or in another process, has the folder. */
export class InUse extends Data.TaggedError("InUse")<{ readonly message: string }> {}

/** A record: length of head, length of body (all ones: null), checksum of the lengths, checksum of what follows. */
const prefixBytes = 16
const nullBody = 0xffff_ffff

const encode = ({ body, head }: Entry): Buffer => {
  const record = Buffer.concat([Buffer.alloc(prefixBytes), head, body ?? Buffer.alloc(0)])
  record.writeUInt32LE(head.length, 0)
  record.writeUInt32LE(body === null ? nullBody : body.length, 4)
  record.writeUInt32LE(crc32(record.subarray(0, 8)), 8)
  record.writeUInt32LE(crc32(record.subarray(prefixBytes)), 12)
  return record
}

const decode = (record: Buffer): Entry => {
  const body = prefixBytes + record.readUInt32LE(0)
  return {
    head: record.subarray(prefixBytes, body),
    body: record.readUInt32LE(4) === nullBody ? null : record.subarray(body)
  }
}

/** The length of the record at a place and whether it is sound; undefined when the bytes end before it does. */
const recordAt = (bytes: Buffer, at: number): { readonly length: number; readonly sound: boolean } | undefined => {
  if (at + prefixBytes > bytes.length) return undefined
  if (crc32(bytes.subarray(at, at + 8)) !== bytes.readUInt32LE(at + 8)) return { length: prefixBytes, sound: false }
  const body = bytes.readUInt32LE(at + 4)
  const length = prefixBytes + bytes.readUInt32LE(at) + (body === nullBody ? 0 : body)
  if (at + length > bytes.length) return undefined
  return { length, sound: crc32(bytes.subarray(at + prefixBytes, at + length)) === bytes.readUInt32LE(at + 12) }
}

const readAt = Effect.fn(function*(file: FileSystem.File, from: number, length: number) {
  const bytes = Option.getOrElse(yield* file.readAlloc(length, { position: BigInt(from) }), () => new Uint8Array())
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
})

/** Where each record begins and the last one ends. What a crash left unfinished there is cut off. */
const recover = Effect.fn(function*(path: string, file: FileSystem.File) {
  const size = ByteSize.toNumberUnsafe((yield* file.stat).size)
  const starts: Array<number> = []
  let end = 0
  for (let wanted = chunkBytes; end < size;) {
    const bytes = yield* readAt(file, end, Math.min(wanted, size - end))
    let used = 0
    for (let record = recordAt(bytes, 0); record !== undefined; record = recordAt(bytes, used)) {
      if (!record.sound && end + used + record.length >= size) break
      if (!record.sound) {
        return yield* new Damaged({ message: `${path} is damaged at byte ${end + used}, before its end: restore it` })
      }
      starts.push(end + used)
      used += record.length
    }
    if (used === 0 && bytes.length === size - end) {
      yield* Effect.logWarning(`${path}: its last ${size - end} bytes are no whole message and are cut off`)
      yield* Effect.andThen(file.truncate(end), file.sync)
      break
    }
    wanted = used === 0 ? wanted * 2 : chunkBytes
    end += used
  }
  return { starts, end }
})

/** Opens a file, and makes it where it is missing. It is read once for the index: eight bytes for each record. */
export const open = Effect.fn(function*(fs: FileSystem.FileSystem, folder: string, name: string) {
  const path = `${folder}/${name}`
  if (!(yield* fs.exists(path))) {
    yield* replace(fs, path, "")
    yield* Effect.scoped(Effect.flatMap(fs.open(folder), (self) => self.sync))
  }
  const file = yield* fs.open(path, { flag: "r+" })
  const { starts, ...recovered } = yield* recover(path, file)
  let end = recovered.end
  let news = Deferred.makeUnsafe<void>()

  const write = Effect.fn(function*(groups: ReadonlyArray<ReadonlyArray<Entry>>) {
    const records = groups.flat().map(encode)
    // Where the last confirmed record ends, whatever a write that failed has left behind it.
    yield* file.seek(BigInt(end), "start")
    for (let from = 0, to = 0, bytes = 0; from < records.length; from = to, bytes = 0) {
      while (to < records.length && (to === from || bytes < chunkBytes)) bytes += records[to++]?.length ?? 0
      yield* file.writeAll(Buffer.concat(records.slice(from, to)))
    }
    yield* file.sync
    for (const { length } of records) {
      starts.push(end)
      end += length
    }
    Deferred.doneUnsafe(news, Exit.void)
    news = Deferred.makeUnsafe()
  }, Effect.tapError(() => Effect.ignore(file.truncate(end))))

  const { add } = yield* Gather.make({ write })
  return {
    count: () => starts.length,
    /** Completes when the entries are on the disk; those that come during a write share the next. */
    append: add,
    /** Completes when there is an entry at the index. */
    until: (index: number) => Effect.suspend(() => index < starts.length ? Effect.void : Deferred.await(news)),
    /** The entry at an index, and those behind it up to `limit` or a chunk. */
    read: Effect.fn(function*(index: number, limit: number) {
      const startOf = (other: number) => starts[other] ?? end
      const from = startOf(index)
      let next = index + 1
      while (next < Math.min(index + limit, starts.length) && startOf(next + 1) - from <= chunkBytes) next++
      const bytes = yield* readAt(file, from, startOf(next) - from)
      return starts.slice(index, next).map((start, place) =>
        decode(bytes.subarray(start - from, startOf(index + place + 1) - from))
      )
    })
  }
})

/** Writes text that is there as a whole or not at all after a crash: without the sync, the name could outlive the bytes. */
export const replace = Effect.fn(function*(fs: FileSystem.FileSystem, path: string, text: string) {
  const file = yield* fs.open(`${path}.new`, { flag: "w" })
  yield* file.writeAll(Buffer.from(text))
  yield* file.sync
  yield* fs.rename(`${path}.new`, path)
}, Effect.scoped)

/** Keeps a folder from all others until the scope closes. A kernel takes its locks from a process that dies. */
export const lock = (folder: string) =>
  Effect.acquireRelease(
    Effect.try({
      try: () => {
        const database = new DatabaseSync(`${folder}/lock`, { timeout: 0 })
        database.exec("BEGIN EXCLUSIVE")
        return database
      },
      catch: (cause) => new InUse({ message: `${folder} has another broker, or cannot be locked: ${String(cause)}` })
    }),
    (database) => Effect.sync(() => database.close())
  )
