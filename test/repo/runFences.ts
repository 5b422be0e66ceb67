import { existsSync } from "node:fs"
import { setImmediate } from "node:timers/promises"
import { pathToFileURL } from "node:url"
import { format } from "node:util"

// Imports each file given, one after the other, in this one process, and sends its parent what each printed and how it ended.

interface Report {
  readonly file: string
  readonly output: ReadonlyArray<string>
  readonly error: string | undefined
}

const limit = 10_000
let loose: Array<unknown> = []
let printed: Array<string> = []
process.on("unhandledRejection", (error) => loose.push(error))
process.on("uncaughtException", (error) => loose.push(error))
console.log = (...args: ReadonlyArray<unknown>) => {
  const text = format(...args)
  // a Warn line of the engine, about a dead letter say, is no output of the example
  if (!/^\[[\d:.]+\] WARN /.test(text)) printed.push(...text.split("\n"))
}

// Node opens these pipes when somebody first looks at them, as a library that asks for colors does: they are no fence's
void [process.stdout, process.stderr]

const resources = (): ReadonlyArray<string> => process.getActiveResourcesInfo()

/** The program of a fence may go on after its last line: it has ended when nothing is left that keeps the process alive. */
const settled = async (before: number): Promise<boolean> => {
  const end = Date.now() + limit
  for (let quiet = 0; quiet < 3;) {
    await setImmediate()
    quiet = resources().length <= before ? quiet + 1 : 0
    if (Date.now() > end) return false
  }
  return true
}

const text = (error: unknown): string => error instanceof Error ? (error.stack ?? error.message) : format(error)

const runFile = async (file: string): Promise<Report> => {
  loose = []
  printed = []
  await setImmediate()
  const before = resources().length
  const ended = await import(pathToFileURL(file).href).then(() => settled(before), (error: unknown) => {
    loose.push(error)
    return true
  })
  if (!ended) loose.push(new Error(`it still runs after ${limit / 1000} s: ${resources().join(", ")}`))
  return { file, output: printed, error: loose.length === 0 ? undefined : loose.map(text).join("\n") }
}

for (const file of process.argv.slice(2)) {
  if (!existsSync(file)) throw new Error(`no file ${file}`)
  const report = await runFile(file)
  await new Promise((sent) => process.send?.(report, sent))
}
process.exit(0)
