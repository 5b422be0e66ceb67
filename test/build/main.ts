// The last step of `pnpm build`, after the compiler.
import { root } from "../repo/workspace.ts"
import { bundleCore } from "./core.ts"

await bundleCore(`${root}/packages/core/dist/node`)
