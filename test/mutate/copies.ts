/**
 * Copies of the core with mutants in them, beside the tests: the checkout itself is only read.
 */
import { createHash, randomUUID } from "node:crypto"
import {
  cpSync,
  existsSync,
  globSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync
} from "node:fs"
import { join } from "node:path"

export const source = join(import.meta.dirname, "../../packages/core/src")
export const cache = join(import.meta.dirname, ".cache")
/** The only folder that a worker process may write to. */
export const scratch = join(cache, "scratch")

export const hashOf = (...texts: ReadonlyArray<string>): string => {
  const hash = createHash("sha256")
  for (const text of texts) hash.update(text).update("\0")
  return hash.digest("hex").slice(0, 16)
}

export const read = (file: string): string => readFileSync(join(source, file), "utf8")

/** Source files of the core, relative to it. */
export const sources = (...patterns: ReadonlyArray<string>): ReadonlyArray<string> =>
  globSync([...patterns], { cwd: source }).sort()

/** A copy of the core in which some files have another text. */
export const copyOf = (changed: ReadonlyMap<string, string>): string => {
  const texts = sources("**/*.ts").flatMap((file) => [file, changed.get(file) ?? read(file)])
  const copy = join(cache, "copies", hashOf(...texts))
  if (existsSync(copy)) return copy
  // Made aside and then moved, so that no other process reads half of it.
  const draft = join(cache, "copies", randomUUID())
  mkdirSync(draft, { recursive: true })
  cpSync(source, draft, { recursive: true })
  for (const [file, text] of changed) writeFileSync(join(draft, file), text)
  try {
    renameSync(draft, copy)
  } catch (error) {
    rmSync(draft, { recursive: true })
    if (!existsSync(copy)) throw error
  }
  return copy
}

const day = 24 * 60 * 60 * 1000

/** Removes the copies that no run of the last day has made. */
export const clean = (keep: string): void => {
  for (const name of globSync("*", { cwd: join(cache, "copies") })) {
    const copy = join(cache, "copies", name)
    const isOld = Date.now() - statSync(copy).mtimeMs > day
    if (copy !== keep && isOld) rmSync(copy, { recursive: true, force: true })
  }
}
