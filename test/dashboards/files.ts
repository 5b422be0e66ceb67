/** The files for Grafana and Prometheus that lie in docs/operations. */
import { dashboard } from "./Grafana.ts"
import * as Rules from "./Rules.ts"

export const folder = "docs/operations"

/** The content of each file, by its name. */
export const files: Readonly<Record<string, string>> = {
  "grafana-dashboard.json": `${JSON.stringify(dashboard, undefined, 2)}\n`,
  "prometheus-rules.yml": Rules.yaml()
}
