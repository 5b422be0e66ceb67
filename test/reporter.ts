import type { Reporter, TestModule, TestSuite } from "vitest/node"

const errorsOf = (suite: TestModule | TestSuite): number => suite.errors().length

/** Prints the files that take longest: a run has two workers and a limit of time. */
const printSlowest = (modules: ReadonlyArray<TestModule>): void => {
  const slowest = modules.map((module) => ({
    name: `${module.project.name} ${module.relativeModuleId}`,
    seconds: module.diagnostic().duration / 1000
  })).filter(({ seconds }) => seconds >= 20).sort((a, b) => b.seconds - a.seconds).slice(0, 40)
  if (slowest.length === 0) return
  const lines = slowest.map(({ name, seconds }) => `${seconds.toFixed(0).padStart(5)} s  ${name}`)
  process.stdout.write(`\nFiles that took 20 s or more:\n${lines.join("\n")}\n`)
}

/**
 * Ends the output with `N passed, N failed`, over all projects. What vitest counts beside the tests counts as a failure here: a file that
 * does not load, a hook that fails, an unhandled error.
 */
export default class ClosingLine implements Reporter {
  readonly counts = { passed: 0, failed: 0, skipped: 0, pending: 0 }

  onInit(): void {
    process.once("exit", (code) => {
      const { passed, skipped } = this.counts
      // Whatever else made the run fail is one more failure.
      const failed = this.counts.failed === 0 && code !== 0 ? 1 : this.counts.failed
      if (failed > 0 && code === 0) process.exitCode = 1
      process.stdout.write(`\n${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}\n`)
    })
  }

  onTestRunEnd(modules: ReadonlyArray<TestModule>, unhandled: ReadonlyArray<unknown>): void {
    this.counts.failed += unhandled.length
    printSlowest(modules)
    for (const module of modules) {
      this.counts.failed += errorsOf(module)
      for (const suite of module.children.allSuites()) this.counts.failed += errorsOf(suite)
      for (const test of module.children.allTests()) this.counts[test.result().state]++
    }
  }
}
