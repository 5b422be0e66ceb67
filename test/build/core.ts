/**
 * Bundles core's modules for Node into one file, with an entry for each module: reading 180 small files takes Node half as long
 * as loading `effect` does, and one file a tenth of that. Bundlers of users read the separate modules by the condition
 * `module`, since they can leave unused modules out.
 */
import { rolldown } from "rolldown"
import { readJson, root } from "../repo/workspace.ts"

type Conditions = string | Readonly<Record<string, string>>

/** The paths of the modules that users may import, without folder and extension. */
const modules = (): ReadonlyArray<string> =>
  Object.values<Conditions>(readJson("packages/core/package.json").publishConfig.exports).flatMap((conditions) =>
    typeof conditions === "string" || conditions["module"] === undefined
      ? []
      : [conditions["module"].replace(/^\.\/dist\/(.*)\.js$/, "$1")]
  )

/** Writes the bundle and its entries into a folder. */
export const bundleCore = async (folder: string): Promise<void> => {
  const bundle = await rolldown({
    cwd: `${root}/packages/core`,
    input: Object.fromEntries(modules().map((path) => [path, `src/${path}.ts`])),
    external: /^(?:effect|node:)/,
    platform: "node",
    treeshake: false
  })
  await bundle.write({
    dir: folder,
    format: "esm",
    sourcemap: true,
    chunkFileNames: "[name].js",
    minifyInternalExports: false,
    codeSplitting: { groups: [{ name: "core", test: /./ }] }
  })
  await bundle.close()
}
