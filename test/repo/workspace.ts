import { execFile, execFileSync } from "node:child_process"
import { existsSync, globSync, readdirSync, readFileSync, statSync } from "node:fs"
import { dirname, join, relative } from "node:path"
import { fileURLToPath } from "node:url"

/** The checkout. */
export const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..")

export const read = (file: string): string => readFileSync(join(root, file), "utf8")

/** JSON as tsconfig.json and oxlint take it: comments on lines of their own. */
export const readJson = (file: string) => JSON.parse(read(file).replace(/^\s*\/\/.*$/gm, ""))

/** Folders of `packages/` that hold a package. */
export const packages: ReadonlyArray<string> = readdirSync(join(root, "packages"))
  .filter((name) => existsSync(join(root, "packages", name, "package.json")))
  .sort()

/** Source files, relative to the checkout. */
export const sources = (...patterns: ReadonlyArray<string>): ReadonlyArray<string> =>
  globSync([...patterns], {
    cwd: root,
    exclude: (name) => name === "node_modules" || name === "dist" || name === ".cache"
  })
    .filter((file) => statSync(join(root, file)).isFile())
    .sort()

/** What git holds and what it would take with `git add`. */
export const committable = (): ReadonlyArray<string> =>
  execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard"], { cwd: root, encoding: "utf8" })
    .split("\n")
    .filter((file) => file !== "" && existsSync(join(root, file)))

export interface Import {
  readonly line: number
  readonly specifier: string
  /** What stands between `import` and `from`. */
  readonly clause: string
}

/** Static, dynamic and re-exporting imports outside comments. */
export const importsOf = (text: string): ReadonlyArray<Import> => {
  const code = text.replace(/\/\*[\s\S]*?\*\//g, (comment) => comment.replace(/[^\n]/g, " ")).replace(
    /^\s*\/\/.*$/gm,
    ""
  )
  const pattern = /^(?:import|export)\b([^"';=]*?)\bfrom\s*"([^"]+)"|^import\s*"([^"]+)"|\bimport\(\s*"([^"]+)"/gm
  return [...code.matchAll(pattern)].map((match) => ({
    line: code.slice(0, match.index).split("\n").length,
    specifier: match[2] ?? match[3] ?? match[4] ?? "",
    clause: match[1] ?? ""
  }))
}

/** The path of a relative import, from the checkout. */
export const resolve = (file: string, specifier: string): string => relative(root, join(root, dirname(file), specifier))

/** Runs a tool of the workspace; what it printed is the error if it fails. */
export const run = (
  command: string,
  args: ReadonlyArray<string>,
  options: { readonly cwd?: string; readonly env?: NodeJS.ProcessEnv } = {}
) =>
  new Promise<{ readonly code: number; readonly output: string }>((done, fail) => {
    const child = execFile(command, [...args], {
      cwd: options.cwd ?? root,
      env: options.env ??
        { ...process.env, PATH: `${join(root, "node_modules", ".bin")}:${process.env["PATH"] ?? ""}` },
      maxBuffer: 64 << 20,
      timeout: 240_000
    }, (error, stdout, stderr) => {
      if (error !== null && child.exitCode === null) fail(new Error(`${error.message}\n${stdout}${stderr}`))
      else done({ code: child.exitCode ?? 1, output: stdout + stderr })
    })
  })
