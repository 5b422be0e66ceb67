/**
 * Stands in for vitest in a process that runs mutants: it collects the tests of a file, so that each can be run many times
 * and by itself, in a process that has loaded everything once. `load.ts` puts it in vitest's place.
 */
import { assert, expect } from "vitest"

export * from "vitest"

type Run = (...args: ReadonlyArray<unknown>) => unknown

/** A test that was collected. */
export interface Collected {
  readonly name: string
  readonly run: () => Promise<void>
}

type Hook = () => unknown

/** A `describe` block, or the file. */
interface Suite {
  readonly name: string
  readonly parent: Suite | undefined
  readonly tasks: Array<unknown>
  readonly before: Array<Hook>
  readonly after: Array<Hook>
  readonly beforeTest: Array<Run>
  readonly afterTest: Array<Run>
}

const suiteOf = (name: string, parent: Suite | undefined): Suite => ({
  name,
  parent,
  tasks: [],
  before: [],
  after: [],
  beforeTest: [],
  afterTest: []
})

let current = suiteOf("", undefined)
let collected: Array<Collected> = []

/** Collects the tests that `load` defines. */
export const collect = async (load: () => Promise<unknown>): Promise<ReadonlyArray<Collected>> => {
  current = suiteOf("", undefined)
  collected = []
  await load()
  return collected
}

const lineage = (suite: Suite): ReadonlyArray<Suite> =>
  suite.parent === undefined ? [suite] : [...lineage(suite.parent), suite]

/** `%s`, `%i` and `$0` are not replaced: a number makes the names of one table differ. */
const named = (name: string): string => {
  const path = [...lineage(current).map((suite) => suite.name), name].filter((part) => part !== "").join(" > ")
  const twins = collected.filter((test) => test.name === path || test.name.startsWith(`${path} #`)).length
  return twins === 0 ? path : `${path} #${twins + 1}`
}

const define = (name: string, run: Run, first: ReadonlyArray<unknown>, fails: boolean): void => {
  const suites = lineage(current)
  const task = { type: "test", name }
  current.tasks.push(task)
  collected.push({
    name: named(name),
    run: async () => {
      const ended: Array<Hook> = []
      const context = {
        task,
        signal: new AbortController().signal,
        expect,
        onTestFinished: (hook: Hook) => void ended.push(hook),
        onTestFailed: () => {},
        skip: () => {},
        annotate: () => Promise.resolve()
      }
      for (const suite of suites) {
        for (const hook of suite.before) await hook()
        for (const hook of suite.beforeTest) await hook(context)
      }
      try {
        if (fails) {
          const failed = await Promise.resolve(run(...first, context)).then(() => false, () => true)
          assert.isTrue(failed, "a test that is to fail passed")
        } else await run(...first, context)
      } finally {
        for (const hook of ended.toReversed()) await hook()
        for (const suite of suites.toReversed()) {
          for (const hook of suite.afterTest) await hook(context)
          for (const hook of suite.after) await hook()
        }
      }
    }
  })
}

const functionOf = (...args: ReadonlyArray<unknown>): Run | undefined =>
  args.find((arg): arg is Run => typeof arg === "function")

const tester = (isOn: boolean, fails = false) => (name: string, ...rest: ReadonlyArray<unknown>): void => {
  const run = functionOf(...rest)
  if (isOn && run !== undefined) define(name, run, [], fails)
}

const off = tester(false)

export const test = Object.assign(tester(true), {
  only: tester(true),
  concurrent: tester(true),
  sequential: tester(true),
  fails: tester(true, true),
  skip: off,
  todo: off,
  skipIf: (condition: unknown) => tester(!condition),
  runIf: (condition: unknown) => tester(Boolean(condition)),
  for: (cases: ReadonlyArray<unknown>) => (name: string, ...rest: ReadonlyArray<unknown>): void => {
    for (const each of cases) define(name, functionOf(...rest)!, [each], false)
  },
  each: (cases: ReadonlyArray<unknown>) => (name: string, ...rest: ReadonlyArray<unknown>): void => {
    for (const each of cases) define(name, functionOf(...rest)!, Array.isArray(each) ? each : [each], false)
  }
})

export const it = test

const suite = (name: string, ...rest: ReadonlyArray<unknown>): void => {
  const outer = current
  current = suiteOf(name, outer)
  try {
    functionOf(...rest)?.()
    outer.tasks.push({ type: "suite", tasks: current.tasks })
  } finally {
    current = outer
  }
}

export const describe = Object.assign(suite, {
  only: suite,
  concurrent: suite,
  sequential: suite,
  skip: () => {},
  todo: () => {},
  skipIf: (condition: unknown) => condition ? () => {} : suite,
  runIf: (condition: unknown) => condition ? suite : () => {},
  each: (cases: ReadonlyArray<unknown>) => (name: string, run: Run): void => {
    for (const each of cases) suite(name, () => run(...(Array.isArray(each) ? each : [each])))
  },
  for: (cases: ReadonlyArray<unknown>) => (name: string, run: Run): void => {
    for (const each of cases) suite(name, () => run(each))
  }
})

export const beforeAll = (hook: Hook): void => void current.before.push(hook)
export const afterAll = (hook: Hook): void => void current.after.push(hook)
export const beforeEach = (hook: Run): void => void current.beforeTest.push(hook)
export const afterEach = (hook: Run): void => void current.afterTest.push(hook)

export const TestRunner = { getCurrentSuite: () => current }
