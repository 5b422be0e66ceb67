/**
 * Stores claims in a folder, which several processes, or machines that mount it, may share.
 */
import { type Duration, Effect, Layer, Stream } from "effect"
import { mkdir, open, readdir, rename, rm, stat } from "node:fs/promises"
import type { FileHandle } from "node:fs/promises"
import { dirname, join } from "node:path"
import { ClaimStoreUnavailable, Store } from "./ClaimStore.ts"
import { dayOf, isDay } from "./internal/days.ts"
import { unique } from "./internal/digest.ts"
import { nameOf, retentionOf } from "./internal/options.ts"
import { pruning } from "./internal/pruning.ts"

/** Options of `layer`. */
export interface Options {
  /** The folder, created if missing. Only programs that may read every body should be able to read it. */
  readonly directory: string
  /**
   * How long bodies are kept, at least; from 1 hour, or `Infinity`. Make it longer than messages, dead letters and unsent rows of an outbox
   * live, or their bodies are gone. Bodies are removed by whole UTC days, so up to a day later.
   */
  readonly retention: Duration.Input
  /** The name in references, from 1 to 100 characters, the same in all programs. Default: `file`. */
  readonly name?: string | undefined
}

/** The defaults of `layer`'s options. */
export const defaults = { name: "file" } as const

const module = "ClaimFile"

/** The folder of bodies that are being written. */
const partial = ".partial"

const partBytes = 256 * 1024

const codeOf = (cause: unknown): unknown => cause instanceof Error && "code" in cause ? cause.code : undefined

const reasons: { readonly [code: string]: string } = {
  ENOSPC: "the disk is full",
  EDQUOT: "the quota of the disk is used up",
  EACCES: "permission is denied",
  EPERM: "permission is denied",
  EROFS: "the file system is read-only",
  EMFILE: "this process has too many open files"
}

const unavailable = (name: string, verb: string) => (cause: unknown): ClaimStoreUnavailable => {
  const code = String(codeOf(cause))
  const why = reasons[code] ?? (cause instanceof Error ? cause.message : String(cause))
  return new ClaimStoreUnavailable({ message: `The store ${name} cannot ${verb} a body: ${why} (${code})`, cause })
}

/** Makes the entries of a folder durable. */
const syncFolder = async (folder: string): Promise<void> => {
  const handle = await open(folder, "r")
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

const absent = <A>(work: Promise<A>): Promise<A | undefined> =>
  work.catch((cause: unknown) => {
    if (codeOf(cause) === "ENOENT") return undefined
    throw cause
  })

/** Writes all of a part, however little the system takes at once. */
const writeAll = async (handle: FileHandle, bytes: Uint8Array): Promise<void> => {
  for (let at = 0; at < bytes.length;) {
    const { bytesWritten } = await handle.write(bytes, at, bytes.length - at)
    at += bytesWritten
  }
}

/** A file that becomes a body once it is complete. */
class Draft {
  private readonly handle: FileHandle
  private readonly path: string
  private isClosed = false

  private constructor(handle: FileHandle, path: string) {
    this.handle = handle
    this.path = path
  }

  static async open(directory: string): Promise<Draft> {
    const path = join(directory, partial, unique())
    return new Draft(await open(path, "wx", 0o600), path)
  }

  append(bytes: Uint8Array): Promise<void> {
    return writeAll(this.handle, bytes)
  }

  /** Makes the file durable, and then visible under its name. */
  async publish(target: string): Promise<void> {
    await this.handle.sync()
    await this.close()
    const folder = dirname(target)
    if (await mkdir(folder, { recursive: true, mode: 0o700 }) !== undefined) await syncFolder(dirname(folder))
    await rename(this.path, target)
    await syncFolder(folder)
  }

  private async close(): Promise<void> {
    if (this.isClosed) return
    this.isClosed = true
    await this.handle.close()
  }

  /** Removes the file, unless it has become a body. */
  async discard(): Promise<void> {
    await this.close()
    await rm(this.path, { force: true })
  }
}

const readWhole = async (path: string, most: number): Promise<Uint8Array | undefined> => {
  const handle = await absent(open(path, "r"))
  if (handle === undefined) return undefined
  try {
    const { size } = await handle.stat()
    const body = Buffer.allocUnsafe(Math.min(size, most))
    let at = 0
    while (at < body.length) {
      const { bytesRead } = await handle.read(body, at, body.length - at, at)
      if (bytesRead === 0) break
      at += bytesRead
    }
    return body.subarray(0, at)
  } finally {
    await handle.close()
  }
}

const partsOf = (handle: FileHandle, offset: number, failed: (cause: unknown) => ClaimStoreUnavailable) =>
  Stream.unfold(offset, (at) =>
    Effect.map(
      Effect.tryPromise({ try: () => handle.read(Buffer.allocUnsafe(partBytes), 0, partBytes, at), catch: failed }),
      ({ buffer, bytesRead }) => bytesRead === 0 ? undefined : [buffer.subarray(0, bytesRead), at + bytesRead] as const
    ))

/** Removes the folders of days before one, and drafts whose process has died. */
const removed = async (directory: string, before: number): Promise<number> => {
  const day = dayOf(before)
  let count = 0
  for (const name of await readdir(directory)) {
    if (!isDay(name) || name >= day) continue
    count += (await absent(readdir(join(directory, name))))?.length ?? 0
    await rm(join(directory, name), { recursive: true, force: true })
  }
  for (const name of await readdir(join(directory, partial))) {
    const path = join(directory, partial, name)
    const found = await absent(stat(path))
    // a stream that is being written changes its file
    if (found === undefined || found.mtimeMs >= before) continue
    await rm(path, { force: true })
    count++
  }
  return count
}

/**
 * Provides a store in a folder.
 *
 * Provides `ClaimStore.Store`; fails with `ClaimStoreUnavailable` if the folder cannot be made. A body is written to a file of its own,
 * flushed (`fsync`), renamed, and its folder flushed: after a crash of the process or the machine it is whole or not there. Several processes
 * may write the same body at once. A full disk fails the publish and leaves no file. Every hour each program removes days that are older
 * than `retention`, and drafts of dead processes that are as old.
 *
 * On NFS a mount with `sync` or close-to-open consistency is needed; a reader that sees a body late finds it within `grace`.
 *
 * **Example** (a shared volume)
 *
 * ```ts
 * import { ClaimFile } from "@millrace/claims"
 *
 * const store = ClaimFile.layer({ directory: "/mnt/claims", retention: "30 days" })
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<Store, ClaimStoreUnavailable> => {
  const { directory } = options
  const name = nameOf(module, options.name ?? defaults.name)
  if (directory === "") throw new RangeError(`${module}: directory is needed, and it is empty`)
  const retention = retentionOf(module, options.retention)
  const attempt = <A>(verb: string, work: () => Promise<A>): Effect.Effect<A, ClaimStoreUnavailable> =>
    Effect.tryPromise({ try: work, catch: unavailable(name, verb) })
  const pathOf = (key: string) => join(directory, key)
  const draft = Effect.acquireRelease(
    attempt("write", () => Draft.open(directory)),
    (made) => Effect.ignore(attempt("write", () => made.discard()))
  )
  const store: Store["Service"] = {
    name,
    write: (key, body) =>
      attempt("write", async () => {
        const made = await Draft.open(directory)
        try {
          await made.append(body)
          await made.publish(pathOf(key))
        } catch (cause) {
          await made.discard().catch(() => undefined)
          throw cause
        }
      }),
    writeStream: (key, body) =>
      Effect.scoped(Effect.flatMap(draft, (made) =>
        Effect.andThen(
          Stream.runForEach(body, (part) => attempt("write", () => made.append(part))),
          attempt("write", () => made.publish(pathOf(key)))
        ))),
    read: (key, most) => attempt("read", () => readWhole(pathOf(key), most)),
    open: (key, offset) =>
      Effect.map(
        Effect.acquireRelease(
          attempt("read", () => absent(open(pathOf(key), "r"))),
          (handle) => handle === undefined ? Effect.void : Effect.promise(() => handle.close())
        ),
        (handle) => handle === undefined ? undefined : partsOf(handle, offset, unavailable(name, "read"))
      ),
    prune: (before) => attempt("remove", () => removed(directory, before))
  }
  return Layer.effect(
    Store,
    Effect.gen(function*() {
      yield* attempt("write", () => mkdir(join(directory, partial), { recursive: true, mode: 0o700 }))
      yield* pruning(module, retention, (before) => attempt("remove", () => removed(directory, before)))
      return store
    })
  )
}
