/**
 * What happened, for people.
 */
import { type Audit, type DeadLetters, Description, Failure, type Metrics } from "@millrace/core"
import { Cause } from "effect"
import type { Planned } from "./generator.ts"
import { fulfilment } from "./pipeline.ts"
import type { Difference, Happened } from "./reconcile.ts"
import type { Node } from "./spans.ts"
import { bold, count, dim, green, millis, red, section, table } from "./terminal.ts"

export const heading = (text: string): string => `\n${bold(text)}`

/** The pipeline draws itself; here it only gets its lines and colours. */
export const pipeline = (): string =>
  section(
    "The way of a message",
    Description.toText(fulfilment).split("\n").map((line) =>
      line.replace(/^( *) {2}(?=\S)/, "$1└ ").replace(/\(.*\)|\[\w+\]$/g, dim)
    )
  )

/** Dead letters by their reason, most frequent first. */
const reasons = (letters: ReadonlyArray<DeadLetters.DeadLetter>) =>
  [...Map.groupBy(letters, ({ errorMessage, errorType }) =>
    // what differs from message to message is not part of the reason
    `${errorType}: ${errorMessage.replaceAll(/ for order .*| \(.*\)| at position .*/g, "")}`)]
    .map(([reason, { length }]) => [length, `  ${reason}`] as const)
    .sort(([a], [b]) => b - a)

const percentiles = ({ p50, p95, p99 }: Metrics.ChannelStatistics["duration"]): string =>
  `handled in ${millis(p50)} (p50), ${millis(p95)} (p95), ${millis(p99)} (p99)`

/** What happened, in numbers. */
export const numbers = (options: {
  readonly statistics: ReadonlyArray<Metrics.ChannelStatistics>
  readonly happened: Happened
  readonly delayed: number
}): string => {
  const { delayed, happened } = options
  const statistics = options.statistics.find(({ kind }) => kind === "consumer")
  const letters = [...happened.letters.values()].flat()
  const retried = [...happened.charges.values()].filter(({ calls }) => calls > 1).length
  const refused = letters.filter(({ errorType }) => errorType === "Unauthorized").length
  return section("What happened", [
    ...table([
      [statistics?.started ?? 0, "received"],
      [statistics?.done ?? 0, "done"],
      [retried, "retried in place"],
      [delayed, "delayed by the rate limit"],
      [refused, "refused by authentication"],
      [letters.length, "dead letters"],
      ...reasons(letters)
    ]),
    ...statistics === undefined ? [] : [percentiles(statistics.duration)]
  ])
}

/** One dead letter of each of three reasons. */
export const letters = (all: Happened["letters"]): string =>
  section(
    "Three dead letters",
    [...Map.groupBy([...all.values()].flat(), ({ errorType }) => errorType).values()].slice(0, 3).flatMap(([letter]) =>
      letter === undefined ? [] : [
        `${letter.channel}/${letter.partition}/${letter.position} of ${letter.delivery.key}, ${letter.delivery.raw.length} bytes`,
        `  ${red(letter.errorType)}: ${letter.errorMessage}`
      ]
    )
  )

export const audit = (rows: ReadonlyArray<Audit.Row>): string =>
  section(
    "The last rows of the audit",
    table(rows.map(({ body, completedAt, duration, errorTag, partition, position, status }) => [
      new Date(completedAt).toISOString().slice(11, 23),
      `${partition}/${position}`,
      status,
      errorTag ?? "",
      millis(duration).padStart(8),
      body ?? ""
    ]))
  )

const spans = (
  { children, span }: Node,
  began: bigint,
  head = "",
  tail = ""
): ReadonlyArray<readonly [string, string]> => {
  const { status } = span
  const took = status._tag === "Ended" ? millis(Number(status.endTime - status.startTime) / 1e6) : "open"
  const after = millis(Number(status.startTime - began) / 1e6)
  const attempt = span.attributes.get("attempt")
  const error = status._tag === "Ended" && status.exit._tag === "Failure" ? Cause.squash(status.exit.cause) : undefined
  return [
    [
      `${head}${span.name}`,
      [
        `after ${after}`,
        `took ${took}`,
        attempt === undefined ? "" : `attempt ${String(attempt)}`,
        error ? red(Failure.tagOf(error)) : ""
      ]
        .filter((part) => part !== "").join(", ")
    ],
    ...children.flatMap((child, i) =>
      i < children.length - 1
        ? spans(child, began, `${tail}├ `, `${tail}│ `)
        : spans(child, began, `${tail}└ `, `${tail}  `)
    )
  ]
}

export const trace = (root: Node | undefined): string => {
  if (root === undefined) return section("One trace", ["none was sampled"])
  const lines = spans(root, root.span.status.startTime)
  const width = Math.max(...lines.map(([name]) => name.length))
  return section("One trace", lines.map(([name, text]) => `${name.padEnd(width)}  ${dim(text)}`))
}

/** The last word: whether all that was published became what it had to. */
export const verdict = (plan: ReadonlyArray<Planned>, differences: ReadonlyArray<Difference>): string => {
  const dead = plan.filter(({ fate }) => fate._tag === "Dead").length
  if (differences.length === 0) {
    return `\n${green("Reconciled")}: ${count(plan.length)} published, ${count(plan.length - dead)} done, ${
      count(dead)
    } dead letters, each as planned`
  }
  return [
    `\n${red("Not reconciled")}: ${count(new Set(differences.map(({ id }) => id)).size)} of ${
      count(plan.length)
    } messages differ`,
    ...differences.slice(0, 10).map(({ id, what }) => `  ${bold(id)}: ${what}`),
    ...differences.length > 10 ? [`  and ${count(differences.length - 10)} more`] : []
  ].join("\n")
}
