/**
 * Writes a health report as a document, in each supported format.
 */
import type { Health } from "@millrace/core"
import { DateTime } from "effect"

/**
 * The form of a document.
 *
 * - `health+json`: draft-inadarei-api-health-check-06
 * - `microprofile`: MicroProfile Health 4.0
 * - `services`: `status`, `timestamp` and `services` by name, in the words of `Health.Status`
 */
export type Form = "health+json" | "microprofile" | "services"

type Json = { readonly [name: string]: unknown }

const iso = (at: number): string => DateTime.formatIso(DateTime.makeUnsafe(at))

const micros = (latency: number): number => Math.round(latency * 1000) / 1000

/** Fields shown to authorized clients only. */
const inside = ({ details, error, failures, why }: Health.Result): Json => ({
  ...(error === undefined ? {} : { error: error.tag, failure: error.failure, failures }),
  ...(details === undefined ? {} : { details }),
  ...(why === undefined ? {} : { why })
})

const sentenceOf = ({ error, why }: Health.Result): string | undefined => why ?? error?.message

const byName = (report: Health.Report, of: (result: Health.Result) => unknown): Json =>
  Object.fromEntries(report.checks.map((result) => [result.name, of(result)]))

const words = { up: "pass", degraded: "warn", down: "fail" } as const

const draft = (report: Health.Report, isDetailed: boolean): Json => ({
  status: words[report.status],
  timestamp: iso(report.timestamp),
  ...(report.phase === "started" ? {} : { notes: [`the program is ${report.phase}`] }),
  checks: byName(report, (result) => {
    const output = sentenceOf(result)
    return [{
      status: words[result.status],
      time: iso(result.at),
      latencyMs: micros(result.latency),
      since: iso(result.since),
      ...(isDetailed ? { ...inside(result), ...(output === undefined ? {} : { output }) } : {})
    }]
  })
})

const services = (report: Health.Report, isDetailed: boolean): Json => ({
  status: report.status,
  phase: report.phase,
  timestamp: iso(report.timestamp),
  services: byName(report, (result) => {
    const message = result.error?.message
    return {
      status: result.status,
      latencyMs: micros(result.latency),
      since: iso(result.since),
      ...(isDetailed ? { ...inside(result), ...(message === undefined ? {} : { message }) } : {})
    }
  })
})

// data in MicroProfile holds strings, integers and booleans
const plain = (value: unknown): unknown => typeof value === "boolean" || Number.isInteger(value) ? value : String(value)

const microprofile = (report: Health.Report, isDetailed: boolean): Json => ({
  // MicroProfile has only UP and DOWN
  status: report.status === "down" ? "DOWN" : "UP",
  checks: report.checks.map((result) => {
    const { details, ...rest } = inside(result)
    const known: Json = isDetailed ? { ...result.details, ...rest, message: sentenceOf(result) } : {}
    return {
      name: result.name,
      status: result.status === "down" ? "DOWN" : "UP",
      data: {
        ...Object.fromEntries(
          Object.entries(known).flatMap(([name, value]) => value === undefined ? [] : [[name, plain(value)]])
        ),
        state: result.status,
        latencyMs: Math.round(result.latency),
        since: iso(result.since)
      }
    }
  })
})

/** The content type and the writer of each form. */
export const forms: {
  readonly [F in Form]: {
    readonly contentType: string
    readonly write: (report: Health.Report, isDetailed: boolean) => Json
  }
} = {
  "health+json": { contentType: "application/health+json", write: draft },
  microprofile: { contentType: "application/json", write: microprofile },
  services: { contentType: "application/json", write: services }
}
