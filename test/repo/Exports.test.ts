import { join } from "node:path"
import { assert, describe, expect, it } from "vitest"
import { packages, read, readJson, resolve, root } from "./workspace.ts"

interface Declaration {
  readonly name: string
  readonly value: boolean
  readonly documented: boolean
  readonly line: number
}

const passedOn = /^export (type )?\{([^}]*)\} from "([^"]+)"$/gm

/** What `export { … } from` names, as it is declared where it comes from. */
const chosen = (file: string, kind: string, names: string, specifier: string): ReadonlyArray<Declaration> => {
  const from = resolve(file, specifier)
  const declarations = declarationsOf(from)
  return names.split(",").filter((name) => name.trim() !== "").map((name): Declaration => {
    const words = `${kind}${name.trim()}`
    const [declared = "", , as = declared] = words.replace(/^(?:type )+/, "").split(" ")
    const declaration = declarations.find((one) => one.name === declared)
    if (declaration === undefined) throw new Error(`${file}: ${declared} is not declared in ${from}`)
    const { documented, line, value } = declaration
    return { name: as, value: value && !words.startsWith("type "), documented, line }
  })
}

/** The exported declarations of a module: exact, because dprint fixes how one is written. A form that is not known throws. */
const declarationsOf = (file: string): ReadonlyArray<Declaration> => {
  const text = read(file)
  const found = new Map(
    [...text.matchAll(passedOn)]
      .flatMap(([, kind = "", names = "", specifier = ""]) => chosen(file, kind, names, specifier))
      .map((one) => [one.name, one])
  )
  // each line keeps its number
  const lines = text.replace(passedOn, (statement) => statement.replace(/[^\n]/g, "")).split("\n")
  for (const [index, line] of lines.entries()) {
    if (!line.startsWith("export ")) continue
    const [, declared, as] = /^export \{ (\w+) as (\w+) \}$/.exec(line) ?? []
    if (declared !== undefined && as !== undefined) {
      const at = lines.findIndex((line) => line.startsWith(`class ${declared} `))
      if (at < 0) throw new Error(`${file}:${index + 1}: no class ${declared}`)
      found.set(as, { name: as, value: true, documented: lines[at - 1]?.trim().endsWith("*/") === true, line: at + 1 })
      continue
    }
    const [, kind, name] =
      /^export (?:declare |abstract |async )*(const|let|function\*?|class|interface|type) ([\w$]+)/.exec(line) ?? []
    if (kind === undefined || name === undefined) {
      throw new Error(`${file}:${index + 1}: an export this test cannot read: ${line}`)
    }
    const before = found.get(name)
    // Overloads, and a type beside the value of its name, share the first docstring.
    found.set(name, {
      name,
      value: before?.value === true || !/^(?:interface|type)$/.test(kind),
      documented: before?.documented === true || lines[index - 1]?.trim().endsWith("*/") === true,
      line: before?.line ?? index + 1
    })
  }
  return [...found.values()]
}

interface Entry {
  /** The namespace, or the empty string for names exported bare. */
  readonly namespace: string
  readonly file: string
  readonly declarations: ReadonlyArray<Declaration>
}

/** What an entry file exports: `export * as Name from`, `export { a, b } from`, `export * from`, or its own declarations. */
const entriesOf = (index: string): ReadonlyArray<Entry> => {
  const text = read(index)
  const pattern = /^export (type )?(?:\* as (\w+)|\{([^}]*)\}|(\*)) from "([^"]+)"$/gm
  const entries = [...text.matchAll(pattern)].map(([, kind = "", namespace = "", names, , specifier = ""]): Entry => {
    const file = resolve(index, specifier)
    return {
      namespace,
      file,
      declarations: names === undefined ? declarationsOf(file) : chosen(index, kind, names, specifier)
    }
  })
  const rest = text.replace(pattern, "")
  return /^export /m.test(rest)
    ? [...entries, { namespace: "", file: index, declarations: declarationsOf(index) }]
    : entries
}

const publicEntries = packages.flatMap((name) =>
  Object.entries<string | null>(readJson(`packages/${name}/package.json`).exports)
    // by path every module can be named in declarations; what is public is what the entries export
    .flatMap(([entry, file]) =>
      file?.endsWith(".ts") === true && !entry.includes("*")
        ? [{ name: join("@millrace", name, entry), index: join("packages", name, file) }]
        : []
    )
)

describe.each(publicEntries)("exports of $name", ({ index, name }) => {
  it("the public names are those agreed on", async () => {
    const names = entriesOf(index).flatMap(({ declarations, namespace }) =>
      declarations.map((one) => `${namespace === "" ? "" : `${namespace}.`}${one.name}${one.value ? "" : " (type)"}`)
    )
    await expect(names.sort().join("\n") + "\n").toMatchFileSnapshot(
      `exports/${name.replace(/^@millrace\//, "").replaceAll("/", "-")}.txt`
    )
  })

  it("each public declaration has a docstring", () => {
    const bare = entriesOf(index).flatMap(({ declarations, file }) =>
      declarations.filter((one) => !one.documented).map((one) => `${file}:${one.line}: ${one.name}`)
    )
    assert.deepStrictEqual(bare, [])
  })

  it("the names read are those that the modules have", async () => {
    const module: Record<string, unknown> = await import(join(root, index))
    const seen = Object.entries(module).flatMap(([key, value]) =>
      Object.prototype.toString.call(value) === "[object Module]"
        ? Object.keys(value as object).map((name) => `${key}.${name}`)
        : [key]
    )
    const readNames = entriesOf(index).flatMap(({ declarations, namespace }) =>
      declarations.filter((one) => one.value).map((one) => namespace === "" ? one.name : `${namespace}.${one.name}`)
    )
    assert.deepStrictEqual([...new Set(readNames)].sort(), seen.sort())
  })
})
