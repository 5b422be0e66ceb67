// Writes the files for Grafana and Prometheus: npx -y pnpm@12 dashboards
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { root } from "../repo/workspace.ts"
import { files, folder } from "./files.ts"

mkdirSync(join(root, folder), { recursive: true })
for (const [name, content] of Object.entries(files)) {
  writeFileSync(join(root, folder, name), content)
  console.log(`${folder}/${name}`)
}
