/**
 * Where planted bugs grow: a copy of the core's sources for each, beside the tests, so that nothing else ever sees them.
 */
import { createHash, randomUUID } from "node:crypto"
import { cpSync, existsSync, globSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import type { Edit, Plant } from "./plants.ts"
import type { Subject } from "./settings.ts"

const source = join(import.meta.dirname, "../../packages/core/src")
const cache = join(import.meta.dirname, ".cache")

/** The text with the bug; the edit must fit exactly once. */
const apply = (plant: Plant, text: string, { file, find, replace }: Edit, list: string): string => {
  const times = text.split(find).length - 1
  if (times === 1) return text.replace(find, () => replace)
  throw new Error(
    `The plant ${plant.name} does not fit: its text stands ${times} times in packages/core/src/${file}, not once. ` +
      `Mend it in ${list}:\n${find}`
  )
}

/** Every file that the plant changes, with its bug. `list`: the file that the plant is written in. */
export const mutated = (plant: Plant, list = "test/simulate/plants.ts"): ReadonlyMap<string, string> => {
  const files = new Map<string, string>()
  for (const edit of plant.edits) {
    const before = files.get(edit.file) ?? readFileSync(join(source, edit.file), "utf8")
    files.set(edit.file, apply(plant, before, edit, list))
  }
  return files
}

/** A name for the sources as they are now, so that a copy is made once for each state of them. */
const stateOf = (files: ReadonlyMap<string, string>): string => {
  const hash = createHash("sha256")
  for (const file of globSync("**/*.ts", { cwd: source }).sort()) {
    hash.update(file).update(files.get(file) ?? readFileSync(join(source, file)))
  }
  return hash.digest("hex").slice(0, 12)
}

/** The core with the bug in it. */
export const grow = async (plant: Plant): Promise<Subject> => {
  const files = mutated(plant)
  const home = join(cache, plant.name)
  const copy = join(home, stateOf(files))
  if (!existsSync(copy)) {
    rmSync(home, { recursive: true, force: true })
    // made aside and then moved, so that nobody reads half of it
    const draft = join(cache, randomUUID())
    mkdirSync(home, { recursive: true })
    cpSync(source, draft, { recursive: true })
    for (const [file, text] of files) writeFileSync(join(draft, file), text)
    try {
      renameSync(draft, copy)
    } catch (error) {
      rmSync(draft, { recursive: true })
      // another process was faster
      if (!existsSync(copy)) throw error
    }
  }
  const module: Subject = await import(/* @vite-ignore */ pathToFileURL(join(copy, "index.ts")).href)
  return module
}
