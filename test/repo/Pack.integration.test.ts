import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, assert, beforeAll, describe, it } from "vitest"
import { packages, readJson, root, run } from "./workspace.ts"

/** The README's first program. */
const firstProgram = "examples/00-first/main.ts"

const folder = mkdtempSync(join(tmpdir(), "millrace-pack-"))
const tarballs = join(folder, "tarballs")
const project = join(folder, "project")
let installed = ""

// A user's shell has none of what pnpm and vitest give to their scripts; what leads to the network stays.
const own = /^(?:npm_(?!config_)|pnpm_|VITEST|NODE_(?:ENV|OPTIONS|PATH)$)/i
const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !own.test(name)))
/** The Node of a user; CI tries the oldest that the packages promise to run on. */
const node = process.env["MILLRACE_USER_NODE"] ?? process.execPath

const succeeds = async (
  command: string,
  args: ReadonlyArray<string>,
  options?: Parameters<typeof run>[2]
): Promise<string> => {
  const { code, output } = await run(command, args, options)
  assert.strictEqual(code, 0, `${command} ${args.join(" ")}\n${output}`)
  return output
}

const tarballOf = (name: string): string => {
  const found = readdirSync(tarballs).find((file) => file.startsWith(`millrace-${name}-`))
  assert.isDefined(found, `no tarball of ${name}`)
  return join(tarballs, found ?? "")
}

/** Installs packed packages and one client of Kafka, the user's choice, in an empty folder. */
const install = (folder: string, names: ReadonlyArray<string>, kafkaClient: string): Promise<string> => {
  const versionOf = (name: string) => readJson(`test/node_modules/${name}/package.json`).version
  writeFileSync(
    join(folder, "package.json"),
    JSON.stringify({
      private: true,
      type: "module",
      dependencies: {
        effect: versionOf("effect"),
        [kafkaClient]: versionOf(kafkaClient),
        ...Object.fromEntries(names.map((name) => [`@millrace/${name}`, `file:${tarballOf(name)}`]))
      }
    })
  )
  return succeeds("npm", ["install", "--no-audit", "--no-fund", "--prefer-offline"], { cwd: folder, env })
}

beforeAll(async () => {
  mkdirSync(tarballs)
  mkdirSync(project)
  await succeeds("npx", ["-y", "pnpm@12", "build"])
  await succeeds("npx", ["-y", "pnpm@12", "-r", "--filter", "./packages/*", "pack", "--pack-destination", tarballs])
  installed = await install(project, packages, "@platformatic/kafka")
}, 120_000)

afterAll(() => rmSync(folder, { recursive: true, force: true }))

describe("the packed packages", () => {
  it.each(packages)("%s pleases publint", async (name) => {
    await succeeds("publint", ["run", tarballOf(name), "--strict"])
  })

  it("install beside one effect, the user's own", () => {
    assert.notMatch(installed, /ERESOLVE|unmet|deprecated @millrace/i)
    const found = readdirSync(join(project, "node_modules"), { recursive: true, encoding: "utf8" })
      .filter((path) => /(?:^|\/)node_modules\/effect$|^effect$/.test(path))
    assert.deepStrictEqual(found, ["effect"])
  })

  it("hold code and declarations, and nothing that belongs to the workspace", () => {
    for (const name of packages) {
      const home = join(project, "node_modules", "@millrace", name)
      const files = readdirSync(home, { recursive: true, encoding: "utf8" })
      assert.include(files, "dist/index.js")
      assert.include(files, "dist/index.d.ts")
      assert.deepStrictEqual(files.filter((file) => /tsbuildinfo|\.test\.|node_modules/.test(file)), [])
    }
  })

  it.each(packages.filter((name) => name !== "testing"))("%s is imported by name", async (name) => {
    const output = await succeeds(node, [
      "-e",
      `import("@millrace/${name}").then((names) => console.log(Object.keys(names).length))`
    ], { cwd: project, env })
    assert.isAbove(Number(output), 0)
  })

  it("core is one file to Node", async () => {
    const output = await succeeds(node, [
      "--input-type=module",
      "-e",
      `import { registerHooks } from "node:module"
      const loaded = new Set()
      registerHooks({ load: (url, context, next) => { if (url.includes("@millrace")) loaded.add(url); return next(url, context) } })
      await import("@millrace/core")
      await import("@millrace/core/Retry")
      console.log([...loaded].map((url) => url.replace(/.*\\/dist\\//, "")).join(" "))`
    ], { cwd: project, env })
    assert.strictEqual(output.trim(), "node/index.js node/core.js node/middleware/Retry.js")
  })

  it("a program on one client of Kafka needs the other neither installed nor loaded", async () => {
    const other = join(folder, "kafkajs")
    mkdirSync(other)
    await install(other, ["core", "kafka"], "kafkajs")
    const installedIn = (home: string) =>
      ["kafkajs", "@platformatic/kafka"].filter((name) => existsSync(join(home, "node_modules", name)))
    assert.deepStrictEqual([installedIn(project), installedIn(other)], [["@platformatic/kafka"], ["kafkajs"]])
    const layers = (specifier: string, cwd: string) =>
      succeeds(node, [
        "-e",
        `import("${specifier}").then(({ Kafka, layer }) => console.log(typeof (layer ?? Kafka.layer)))`
      ], {
        cwd,
        env
      })
    assert.strictEqual(await layers("@millrace/kafka", project), "function\n")
    assert.strictEqual(await layers("@millrace/kafka/KafkaJs", other), "function\n")
    await succeeds(node, [
      "-e",
      `Promise.all(["KafkaAdmin", "KafkaTransaction"].map((name) => import("@millrace/kafka/" + name)))`
    ], { cwd: other, env })
    const internal = ["@millrace/kafka", "internal", "Options"].join("/")
    const { code, output } = await run(node, ["-e", `import("${internal}")`], { cwd: project, env })
    assert.deepStrictEqual([code, /ERR_PACKAGE_PATH_NOT_EXPORTED/.test(output)], [1, true], output)
  }, 60_000)

  it.each(packages)("%s resolves with its types in each kind of project", async (name) => {
    await succeeds("attw", [tarballOf(name), "--profile", "esm-only", "--no-emoji"])
  })

  // TypeScript 5.9 is the oldest whose language the declarations use; it takes four times as long as 7.
  it.each([
    ["tsc", "nodenext"],
    ["tsc", "bundler"],
    ["tsc-5.9", "nodenext"]
  ])("type-check for a user by %s and %s, declarations included", async (compiler, resolution) => {
    writeFileSync(
      join(project, "all.ts"),
      packages.map((name) => `export * as ${name} from "@millrace/${name}"\n`).join("")
    )
    const config = join(project, `tsconfig.${resolution}.json`)
    writeFileSync(
      config,
      JSON.stringify({
        files: ["all.ts"],
        compilerOptions: {
          strict: true,
          module: resolution === "bundler" ? "esnext" : "nodenext",
          moduleResolution: resolution,
          target: "es2024",
          noEmit: true,
          // declarations of kafkajs and amqplib name Node's types
          typeRoots: [join(root, "test", "node_modules", "@types")],
          types: ["node"],
          skipLibCheck: false
        }
      })
    )
    await (compiler === "tsc"
      ? succeeds("tsc", ["-p", config])
      : succeeds(node, [join(root, "test", "node_modules", "typescript-5.9", "bin", "tsc"), "-p", config]))
  })

  it("run the README's first program", async () => {
    assert.isTrue(existsSync(join(root, firstProgram)), `${firstProgram} is missing`)
    cpSync(join(root, firstProgram), join(project, "main.ts"))
    await succeeds(node, ["main.ts"], { cwd: project, env })
  })
})
