/** Writes the panels as a dashboard of Grafana 10 and later. */
import { type Panel, type Row, rows } from "./Panels.ts"

// a variable, so that an import asks for no data source and provisioning needs no name
const datasource = { type: "prometheus", uid: "${datasource}" }

const columns = 24
const height = 8

const panel = ({ about, kind, queries, title, unit }: Panel, id: number, x: number, y: number, w: number) => ({
  id,
  type: kind,
  title,
  description: about,
  datasource,
  gridPos: { x, y, w, h: height },
  fieldConfig: {
    defaults: {
      unit,
      min: 0,
      ...(kind === "state-timeline"
        ? {
          mappings: [{
            type: "value",
            options: {
              0: { text: "down", color: "red", index: 0 },
              0.5: { text: "degraded", color: "orange", index: 1 },
              1: { text: "up", color: "green", index: 2 }
            }
          }]
        }
        : {}),
      ...(kind === "stat"
        ? {
          color: { mode: "thresholds" },
          thresholds: { mode: "absolute", steps: [{ color: "green", value: null }, { color: "red", value: 1 }] }
        }
        : {})
    },
    overrides: []
  },
  options: kind === "timeseries"
    ? { legend: { displayMode: "list", placement: "bottom" }, tooltip: { mode: "multi", sort: "desc" } }
    : {},
  targets: queries.map(({ expr, legend }, i) => ({
    refId: String.fromCharCode(65 + i),
    datasource,
    expr,
    legendFormat: legend,
    ...(kind === "stat" ? { instant: true } : {})
  }))
})

const laidOut = (all: ReadonlyArray<Row>) => {
  let id = 0
  let y = 0
  return all.flatMap(({ panels, title }) => {
    const head = {
      id: ++id,
      type: "row",
      title,
      collapsed: false,
      gridPos: { x: 0, y: y++, w: columns, h: 1 },
      panels: []
    }
    const across = Math.min(3, panels.length)
    const w = columns / across
    const body = panels.map((each, i) => panel(each, ++id, (i % across) * w, y + Math.floor(i / across) * height, w))
    y += Math.ceil(panels.length / across) * height
    return [head, ...body]
  })
}

const list = (name: string, label: string, query: string) => ({
  name,
  label,
  type: "query",
  datasource,
  definition: query,
  query: { query, refId: name },
  refresh: 2,
  sort: 1,
  multi: true,
  includeAll: true,
  allValue: ".+",
  current: { text: "All", value: "$__all" }
})

/** The dashboard as a value of JSON. */
export const dashboard = {
  uid: "millrace",
  title: "Millrace",
  description: "Consumers, publishers, HTTP and failures of programs with Millrace.",
  tags: ["millrace", "messaging"],
  schemaVersion: 39,
  version: 1,
  editable: true,
  graphTooltip: 1,
  refresh: "30s",
  time: { from: "now-3h", to: "now" },
  timezone: "browser",
  templating: {
    list: [
      { name: "datasource", label: "Data source", type: "datasource", query: "prometheus", current: {} },
      list("job", "Job", "label_values({__name__=~\"millrace_.*|http_server_request_duration_count\"}, job)"),
      list("group", "Consumer group", "label_values(millrace_in_flight{job=~\"$job\"}, messaging_consumer_group_name)")
    ]
  },
  annotations: { list: [] },
  links: [],
  panels: laidOut(rows)
}
