/**
 * A suite of HTTP: about two hundred cases from RFCs and drafts, as data. Each case is sent over a socket, byte for byte,
 * and the answers are read the same way.
 */
import type { Case, Resource } from "./internal/http/Case.ts"
import { problemsOf } from "./internal/http/check.ts"
import { type Answer, run as exchange } from "./internal/http/connection.ts"
import { cases as cors } from "./internal/http/cors.ts"
import { cases as drafts } from "./internal/http/drafts.ts"
import { cases as messages } from "./internal/http/messages.ts"
import { cases as problems } from "./internal/http/problems.ts"
import { cases as semantics } from "./internal/http/semantics.ts"

export type { Case, Exchange, Expected, FieldRule, Part, Resource } from "./internal/http/Case.ts"

/** All cases, by document and section. */
export const cases: ReadonlyArray<Case> = [...messages, ...semantics, ...problems, ...drafts, ...cors]

/**
 * The paths of a service's resources, without a query. A case runs only if the service has all resources that the case
 * needs.
 *
 * - `hello`: GET answers JSON
 * - `echo`: POST answers the bytes of a JSON object or array of at most 1,000 bytes; other JSON is 422
 * - `item`: GET of `PATH/:id` answers `{ id, path, query, host, cookie }`, the last four as the handler sees them
 * - `empty`: DELETE is answered with 204
 * - `stream`: GET streams the text `one two three`
 * - `cookies`: GET sets the cookies `a=1; Path=/; HttpOnly`, `b=2; Path=/` and `c=3`; with `?stream=1` on a streamed answer,
 * with
 *   `?status=204` on one without content
 * - `inflate`: as `echo`, of any JSON, up to 1 MiB, and compressed bodies up to 100 times their size
 * - `slow`: GET answers after some milliseconds; POST reads a JSON body that must arrive within 300 milliseconds
 * - `unread`: POST answers 200 and does not read the body
 * - `fails`: GET is answered with 409; `defect`: GET fails with a defect whose text has the word `secret`; `busy`: with 503
 * - `broken`: GET answers with the field `x-broken: a\r\nx-admin: 1`
 * - `private`: GET answers `{ subject }` to the bearer `token`, whose subject is `ada`
 * - `admin`: POST reads a JSON body and requires the scope `admin`, which `token` lacks
 * - `payments`: POST requires an idempotency key; JSON `{ amount }` gets a new answer each time, 402 gets a 422 of its own,
 *   500 gets 503
 * - `limited`: GET, two a minute for each query
 * - `trace`: GET answers `{ traceId, sampled, state, baggage, who }`: the continued trace, its state, the baggage's
 * `tenant`, `a` and
 *   `b` as `name=value,name=value`, and its `who`
 * - `cors`: GET for pages of `https://app.example.com`, with credentials and from public networks; `corsPrivate`: POST of a
 * JSON
 *   object, with `token`, for the same page; `corsFails`: GET for the same page, with a defect
 */
export type Paths = { readonly [Name in Resource]?: string | undefined }

/** A service under test. */
export interface Subject {
  readonly host: string
  readonly port: number
  readonly serves: Paths
  /** The bearer token that `private` knows. */
  readonly token: string
}

/** The result of a case. */
export interface Result {
  readonly case: Case
  /** `absent`: the service lacks a resource that the case needs. */
  readonly outcome: "passed" | "failed" | "absent"
  /** The faults, a sentence each. */
  readonly problems: ReadonlyArray<string>
}

/**
 * Runs one case against a service.
 *
 * **Example** (your own service)
 *
 * ```ts no-run
 * import { HttpConformance } from "@millrace/testing"
 *
 * const subject: HttpConformance.Subject = { host: "127.0.0.1", port: 8080, serves: { hello: "/", item: "/orders" }, token: "t" }
 * for (const each of HttpConformance.cases) {
 *   const { outcome, problems } = await HttpConformance.run(subject, each)
 *   if (outcome === "failed") console.log(each.section, each.title, problems)
 * }
 * ```
 */
export const run = async (subject: Subject, each: Case): Promise<Result> => {
  if (each.needs.some((name) => subject.serves[name] === undefined)) {
    return { case: each, outcome: "absent", problems: [] }
  }
  const { host, port, serves, token } = subject
  const values: { readonly [name: string]: string | undefined } = { ...serves, host: `${host}:${port}`, token }
  const fill = (text: string) => text.replaceAll(/\{(\w+)\}/g, (whole, name: string) => values[name] ?? whole)
  const before: Array<Answer> = []
  const problems: Array<string> = []
  for (const [i, part] of each.exchanges.entries()) {
    const received = await exchange(host, port, part, fill)
    const found = problemsOf(part, received, before)
    problems.push(...each.exchanges.length === 1 ? found : found.map((problem) => `request ${i + 1}: ${problem}`))
    before.push(...received.answers)
  }
  return { case: each, outcome: problems.length === 0 ? "passed" : "failed", problems }
}

/** Runs all cases one after another. */
export const runAll = async (subject: Subject): Promise<ReadonlyArray<Result>> => {
  const results: Array<Result> = []
  for (const each of cases) results.push(await run(subject, each))
  return results
}

const words = { passed: "yes", failed: "**no**", absent: "–" } as const

/** The results of several services as a table of Markdown, a row for each case, in the order of the sections. */
export const toTable = (results: { readonly [subject: string]: ReadonlyArray<Result> }): string => {
  const names = Object.keys(results)
  const rows = cases.map((each) => {
    const { section, title } = each
    return [section, title].concat(names.map((name) => {
      const found = results[name]!.find((result) => result.case === each)
      return words[found?.outcome ?? "absent"]
    }))
  }).sort(([a = ""], [b = ""]) => a.localeCompare(b, "en", { numeric: true }))
  const header = ["section", "case", ...names]
  const widths = header.map((name, i) => Math.max(name.length, ...rows.map((row) => row[i]!.length)))
  const line = (cells: ReadonlyArray<string>) => `| ${cells.map((cell, i) => cell.padEnd(widths[i]!)).join(" | ")} |`
  return [line(header), line(widths.map((width) => "-".repeat(width))), ...rows.map(line)].join("\n")
}
