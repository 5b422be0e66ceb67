import { read, sources } from "./workspace.ts"

export interface Fence {
  readonly file: string
  /** The line of the first line of code, from 1. */
  readonly line: number
  readonly code: string
  readonly run: boolean
}

/** Why a fence is not taken. */
export interface Fault {
  readonly at: string
  readonly reason: string
}

const checked = /^(?:ts|typescript|tsx|js|javascript|mts)\b/

/** The fences of a text in which each line of prose starts with `prefix`. */
const fencesIn = (file: string, lines: ReadonlyArray<string>, firstLine: number, prefix: RegExp) => {
  const fences: Array<Fence> = []
  const faults: Array<Fault> = []
  let open: { readonly info: string; readonly index: number } | undefined
  const plain = lines.map((line) => line.replace(prefix, ""))
  for (const [index, line] of plain.entries()) {
    const fence = /^\s*```+\s*(.*)$/.exec(line)
    if (fence === null) continue
    if (open === undefined) {
      open = { info: (fence[1] ?? "").trim(), index }
      continue
    }
    const at = `${file}:${firstLine + open.index}`
    if (open.info === "ts" || open.info === "ts no-run") {
      fences.push({
        file,
        line: firstLine + open.index + 1,
        code: plain.slice(open.index + 1, index).join("\n"),
        run: open.info === "ts"
      })
    } else if (checked.test(open.info)) {
      faults.push({ at, reason: `a fence is "ts" or "ts no-run", not "${open.info}"` })
    }
    open = undefined
  }
  if (open !== undefined) faults.push({ at: `${file}:${firstLine + open.index}`, reason: "the fence does not end" })
  return { fences, faults }
}

/** Every fence of the READMEs, of docs/ and of doc comments in packages. */
export const collect = (): { readonly fences: ReadonlyArray<Fence>; readonly faults: ReadonlyArray<Fault> } => {
  const pages = sources("README.md", "docs/**/*.md", "packages/*/README.md").map((file) =>
    fencesIn(file, read(file).split("\n"), 1, /^/)
  )
  const comments = sources("packages/*/src/**/*.ts").flatMap((file) => {
    const text = read(file)
    return [...text.matchAll(/\/\*\*[\s\S]*?\*\//g)].map((comment) =>
      fencesIn(file, comment[0].split("\n"), text.slice(0, comment.index).split("\n").length, /^\s*\* ?/)
    )
  })
  const all = [...pages, ...comments]
  return { fences: all.flatMap(({ fences }) => fences), faults: all.flatMap(({ faults }) => faults) }
}

/** What a fence says that it prints: the `// =>` comments behind its calls of `console.log`, and the comment lines right below them. */
export const expectedOutput = (code: string): ReadonlyArray<string> => {
  const expected: Array<string> = []
  let inside = false
  for (const line of code.split("\n")) {
    const first = /\/\/ => ?(.*)$/.exec(line)
    const next = /^\s*\/\/ {4}(.*)$/.exec(line)
    if (first !== null) expected.push(first[1] ?? "")
    else if (inside && next !== null) expected.push(next[1] ?? "")
    inside = first !== null || (inside && next !== null)
  }
  return expected
}
