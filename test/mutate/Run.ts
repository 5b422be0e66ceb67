/**
 * Runs mutants in parallel processes, the tests that are most likely to kill them first.
 */
import { existsSync, globSync, mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import type { Plant } from "../simulate/plants.ts"
import { mutated } from "../simulate/greenhouse.ts"
import { cache, clean, copyOf, hashOf, read } from "./copies.ts"
import { type Mutant, switched } from "./operators.ts"
import { Process } from "./Process.ts"
import type { Survey, Test, Verdict } from "./protocol.ts"

const tests = join(import.meta.dirname, "..")

/** Tests that take long and kill little: of the contract with drivers that are wrong, and of the number of steps. */
const left = new Set(["memory/WrongDriver.test.ts", "core/FastPath.test.ts"])

/** Milliseconds of tests for one mutant. What survives them all counts as survived. */
const most = 20_000

/** A mutant, and what became of it. */
export interface Result {
  readonly mutant: Mutant
  readonly verdict: Verdict
}

export interface Options {
  /** Paths inside `packages/core/src`. */
  readonly files: ReadonlyArray<string>
  readonly plants: ReadonlyArray<Plant>
  /** Test files, paths inside `test/`; all that there are where it is empty. */
  readonly tests: ReadonlyArray<string>
  readonly jobs: number
  /** Milliseconds; what was not begun by then is left out. */
  readonly budget: number
  readonly seed: number
  /** Whether a mutant is to be run at all. */
  readonly wanted: (mutant: Mutant) => boolean
  /** Mutants that are known to change nothing are not run. */
  readonly isEquivalent: (mutant: Mutant) => boolean
  readonly isCached: boolean
  readonly onProgress: (text: string) => void
}

export interface Outcome {
  readonly results: ReadonlyArray<Result>
  /** How many were wanted. */
  readonly wanted: number
  readonly refused: ReadonlyArray<string>
}

/** Test files that may kill a mutant. */
const killers = (chosen: ReadonlyArray<string>): ReadonlyArray<string> => {
  const all = globSync("{core,memory,engine}/*.test.ts", { cwd: tests }).filter((file) => !left.has(file)).sort()
  const found = [...all, "mutate/worlds.ts"]
  return chosen.length === 0 ? found : found.filter((file) => chosen.some((part) => file.includes(part)))
}

/** One state of all that decides over a survivor: tests, their kits, and the core. */
const stateOf = (copy: string): string => {
  const packages = join(tests, "../packages")
  const files = [
    ...globSync("{core,memory,engine,simulate}/*.ts", { cwd: tests }).map((file) => join(tests, file)),
    ...["worlds", "worker", "vitest", "load"].map((name) => join(import.meta.dirname, `${name}.ts`)),
    ...globSync("testing/src/**/*.ts", { cwd: packages }).map((file) => join(packages, file))
  ]
  return hashOf(copy, ...files.sort().map((file) => readFileSync(file, "utf8")))
}

const remembered = <A>(name: string): A | undefined => {
  const file = join(cache, `${name}.json`)
  return existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : undefined
}

const remember = (name: string, value: unknown): void => {
  const file = join(cache, `${name}.json`)
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, JSON.stringify(value))
}

/** Numbers from 0 to 1 that are the same for a seed. */
const randomOf = (seed: number) => () => {
  seed = (seed + 0x6d2b79f5) | 0
  let t = Math.imul(seed ^ (seed >>> 15), seed | 1)
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
  return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
}

const shuffled = <A>(all: ReadonlyArray<A>, seed: number): ReadonlyArray<A> => {
  const random = randomOf(seed)
  return all.map((each) => [random(), each] as const).toSorted(([a], [b]) => a - b).map(([, each]) => each)
}

/** Runs `work` over all items, some at a time. */
const inParallel = async <A>(items: ReadonlyArray<A>, jobs: number, work: (item: A, job: number) => Promise<void>) => {
  let next = 0
  const one = async (job: number) => {
    while (next < items.length) await work(items[next++]!, job)
  }
  await Promise.all(Array.from({ length: Math.min(jobs, items.length) }, (_, job) => one(job)))
}

/** What each test meets, read anew when anything has changed. */
const surveys = async (copy: string, switches: number, options: Options): Promise<ReadonlyArray<Survey>> => {
  const files = killers(options.tests)
  const name = `surveys-${hashOf(stateOf(copy), ...files)}`
  const known = options.isCached ? remembered<ReadonlyArray<Survey>>(name) : undefined
  if (known !== undefined) return known
  const processes = Array.from({ length: options.jobs }, () => new Process(copy, switches))
  const found: Array<Survey> = []
  await inParallel(files, options.jobs, async (file, job) => {
    found.push(await processes[job]!.survey(file))
    options.onProgress(`tests read: ${found.length} of ${files.length} files`)
  })
  for (const process of processes) process.end()
  remember(name, found)
  return found
}

/** Which tests to run first: those that cost little and have killed mutants of the same file. */
class Ranking {
  private readonly runs = new Map<string, number>()
  private readonly kills = new Map<string, number>()

  order(file: string, candidates: ReadonlyArray<Test>): ReadonlyArray<Test> {
    const cost = ({ file: of, name, time }: Test): number => {
      const key = `${file} ${of} ${name}`
      return (time + 2) * ((this.runs.get(key) ?? 0) + 2) / ((this.kills.get(key) ?? 0) + 1)
    }
    let total = 0
    return candidates
      .map((test) => [cost(test), test] as const)
      .toSorted(([a], [b]) => a - b)
      .map(([, test]) => test)
      .filter(({ time }) => (total += time) <= most || total === time)
  }

  heard(file: string, ran: ReadonlyArray<Test>, verdict: Verdict): void {
    const by = verdict._tag === "survived" ? undefined : verdict.by
    for (const test of ran) {
      const key = `${file} ${test.file} ${test.name}`
      this.runs.set(key, (this.runs.get(key) ?? 0) + 1)
      if (by === `${test.file} ${test.name}`) {
        this.kills.set(key, (this.kills.get(key) ?? 0) + 1)
        return
      }
    }
  }
}

/** What is kept of a verdict, and the state that it holds for. */
interface Kept {
  readonly verdict: Verdict
  readonly state: string
}

const plantedMutant = ({ about, edits, name }: Plant, id: number): Mutant => ({
  id,
  file: edits[0]!.file,
  line: read(edits[0]!.file).split(edits[0]!.find)[0]!.split("\n").length,
  column: 1,
  operator: `planted ${name}`,
  original: about,
  mutated: "see planted.ts"
})

/** Generates the mutants of files and runs the tests against each. */
export const run = async (options: Options): Promise<Outcome> => {
  const began = Date.now()
  const changed = new Map<string, string>()
  const mutants: Array<Mutant> = []
  const plantedFiles = options.plants.flatMap(({ edits }) => edits.map(({ file }) => file))
  for (const file of new Set([...options.files, ...plantedFiles])) {
    const { mutants: found, text } = switched(file, read(file), mutants.length)
    changed.set(file, text)
    mutants.push(...found)
  }
  const copy = copyOf(changed)
  clean(copy)
  const found = await surveys(copy, mutants.length, options)
  const state = stateOf(copy)
  const candidates = found.flatMap((survey) => survey.tests)
  const statics = new Set(found.flatMap((survey) => survey.static))
  const byMutant: Array<Array<Test>> = mutants.map(() => [])
  for (const test of candidates) for (const id of test.hits) byMutant[id]!.push(test)
  const ids = (files: ReadonlyArray<string>) =>
    new Set(mutants.filter(({ file }) => files.includes(file)).map(({ id }) => id))
  const meeting = (files: ReadonlyArray<string>): ReadonlyArray<Test> => {
    const some = ids(files)
    return candidates.filter(({ hits }) => hits.some((id) => some.has(id)))
  }

  const fileHash = new Map([...changed.keys()].map((file) => [file, hashOf(file, read(file))]))
  const hashOfTest = new Map(
    found.map(({ file }) => [file, hashOf(readFileSync(join(tests, file), "utf8"))])
  )
  const kept = new Map(Object.entries(remembered<Record<string, Kept>>("verdicts") ?? {}))
  const keyOf = ({ column, file, line, mutated, operator, original }: Mutant): string =>
    hashOf(fileHash.get(file)!, String(line), String(column), operator, original, mutated)
  const stateFor = (verdict: Verdict): string =>
    verdict._tag === "survived" ? state : hashOfTest.get(verdict.by.split(" ")[0]!) ?? state
  const known = (mutant: Mutant): Verdict | undefined => {
    const entry = options.isCached ? kept.get(keyOf(mutant)) : undefined
    return entry !== undefined && entry.state === stateFor(entry.verdict) ? entry.verdict : undefined
  }

  const ranking = new Ranking()
  const results: Array<Result> = []
  const end = (mutant: Mutant, verdict: Verdict, isKept = true): void => {
    results.push({ mutant, verdict })
    if (isKept) kept.set(keyOf(mutant), { verdict, state: stateFor(verdict) })
  }
  const selected = new Set(options.files)
  const generated = mutants.filter((mutant) => selected.has(mutant.file) && options.wanted(mutant))
  const plants = options.plants
    .map((plant, i) => ({
      mutant: plantedMutant(plant, mutants.length + i),
      texts: mutated(plant, "test/mutate/planted.ts")
    }))
    .filter(({ mutant }) => options.wanted(mutant))
  const total = generated.length + plants.length
  // Verdicts of earlier runs take their turn too: those beyond the budget would make the sample unfair.
  const work = shuffled(generated, options.seed)
  let told = Date.now()
  const progress = (): void => {
    const survived = results.filter(({ verdict }) => verdict._tag === "survived").length
    options.onProgress(`mutants: ${results.length} of ${total}, ${survived} survived`)
    if (Date.now() - told < 20_000) return
    told = Date.now()
    remember("verdicts", Object.fromEntries(kept))
  }

  const processes = Array.from({ length: options.jobs }, () => new Process(copy, mutants.length))
  await inParallel(work, options.jobs, async (mutant, job) => {
    if (Date.now() - began > options.budget) return
    const earlier = options.isEquivalent(mutant) ? { _tag: "survived" } as const : known(mutant)
    if (earlier !== undefined) return end(mutant, earlier, false)
    const process = processes[job]!
    const { file, id } = mutant
    const ordered = ranking.order(file, byMutant[id]!)
    let verdict: Verdict = { _tag: "survived" }
    if (ordered.length > 0) {
      verdict = await process.run({ _tag: "run", mutant: id, isFresh: false, tests: ordered })
      ranking.heard(file, ordered, verdict)
    }
    if (verdict._tag === "survived" && statics.has(id)) {
      // It is met while the modules load, so that all tests of its file may show it.
      const ordered = ranking.order(file, meeting([file]))
      verdict = await process.run({ _tag: "run", mutant: id, isFresh: true, tests: ordered })
    }
    end(mutant, verdict)
    progress()
  })
  await inParallel(plants, options.jobs, async ({ mutant, texts }) => {
    if (Date.now() - began > options.budget) return
    const process = new Process(copyOf(texts), 0)
    const ordered = ranking.order(mutant.file, meeting([...texts.keys()]))
    const verdict = await process.run({ _tag: "run", mutant: undefined, isFresh: true, tests: ordered })
    process.end()
    ranking.heard(mutant.file, ordered, verdict)
    results.push({ mutant, verdict })
    progress()
  })
  for (const process of processes) process.end()
  remember("verdicts", Object.fromEntries(kept))
  return { results, wanted: total, refused: found.flatMap((survey) => survey.refused) }
}
