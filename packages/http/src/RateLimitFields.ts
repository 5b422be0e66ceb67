/**
 * Response headers for rate limits: those of the IETF draft, the older `X-RateLimit-*`, and `Retry-After`.
 *
 * Source: draft-ietf-httpapi-ratelimit-headers-10, RFC 9651 (Structured Fields), RFC 9110 10.2.3.
 */
import type { Envelope, RateLimit } from "@millrace/core"
import { compositeKey } from "@millrace/core/compositeKey"
import type { Request } from "./Request.ts"

/** A decision with the policies that were checked, in the same order, as in `RateLimited`. */
export interface Limited {
  readonly policies: ReadonlyArray<RateLimit.Policy>
  readonly decision: RateLimit.Decision
}

/** Options of `fields`. */
export interface Options {
  /** `draft`: `RateLimit` and `RateLimit-Policy`. `legacy`: `X-RateLimit-Limit`, `-Remaining`, `-Reset`. Default: `draft`. */
  readonly form?: "both" | "draft" | "legacy" | undefined
}

const seconds = (millis: number): number => Math.ceil(millis / 1000)

// an integer of a Structured Field has 15 digits
const shown = (value: number): number => Math.min(999_999_999_999_999, Math.max(0, value))

/** A String of Structured Fields holds printable ASCII; every other character becomes a question mark. */
const quoted = (text: string): string => `"${text.replaceAll(/[^\x20-\x7e]/gu, "?").replaceAll(/["\\]/g, "\\$&")}"`

/** Seconds until a message like the refused one would pass, or until the whole quota is available again. */
const timeOf = ({ decision }: Limited, verdict: RateLimit.Verdict): number =>
  seconds(!decision.isAdmitted && verdict.wait > 0 && Number.isFinite(verdict.wait) ? verdict.wait : verdict.reset)

const policyOf = (policy: RateLimit.Policy): string =>
  policy.algorithm === "concurrency"
    ? `${quoted(policy.name)};q=${policy.limit};qu="concurrent-requests"`
    // the header holds whole seconds, so a window below a second counts as one second
    : `${quoted(policy.name)};q=${shown(policy.limit)};w=${seconds(policy.window)}`

const limitOf = (limited: Limited, i: number): string => {
  const policy = limited.policies[i]!
  const verdict = limited.decision.verdicts[i]!
  const item = `${quoted(policy.name)};r=${shown(Math.floor(verdict.remaining))}`
  // a concurrency limit has no reset time
  return policy.algorithm === "concurrency" ? item : `${item};t=${timeOf(limited, verdict)}`
}

/** The index of the policy with the longest wait, else with the least quota left relative to its burst. */
const tightest = ({ decision, policies }: Limited): number =>
  policies.reduce((least, _policy, i) => {
    const share = (at: number) => decision.verdicts[at]!.remaining / policies[at]!.burst
    return decision.verdicts[i]!.wait > decision.verdicts[least]!.wait
        || decision.verdicts[i]!.wait === decision.verdicts[least]!.wait && share(i) < share(least)
      ? i
      : least
  }, 0)

/**
 * Returns the headers of a response, by lower-case name. The remaining quota is rounded down and times are rounded up to whole
 * seconds, so no client retries too early. A refusal with a finite wait has `retry-after`, which is no earlier than the `t` of
 * any exceeded policy.
 *
 * The legacy headers describe one policy: the one with the longest wait, else the one with the least quota left. Their reset is
 * in seconds from now.
 *
 * **Example** (a policy of a hundred a minute, refused)
 *
 * ```ts
 * import { RateLimit } from "@millrace/core"
 * import { RateLimitFields } from "@millrace/http"
 *
 * RateLimitFields.fields({
 *   policies: [RateLimit.policy("search", { limit: 100, window: "1 minute" })],
 *   decision: { isAdmitted: false, wait: 590, verdicts: [{ wait: 590, remaining: 0, reset: 59_990 }], at: 0, lease: 0 }
 * })
 * // { "ratelimit-policy": '"search";q=100;w=60', ratelimit: '"search";r=0;t=1', "retry-after": "1" }
 * ```
 */
export const fields = (limited: Limited, options: Options = {}): { readonly [name: string]: string } => {
  const { decision, policies } = limited
  if (policies.length === 0) return {}
  const { form = "draft" } = options
  const found: { [name: string]: string } = {}
  if (form !== "legacy") {
    found["ratelimit-policy"] = policies.map(policyOf).join(", ")
    found["ratelimit"] = policies.map((_, i) => limitOf(limited, i)).join(", ")
  }
  if (form !== "draft") {
    const i = tightest(limited)
    found["x-ratelimit-limit"] = String(shown(policies[i]!.limit))
    found["x-ratelimit-remaining"] = String(shown(Math.floor(decision.verdicts[i]!.remaining)))
    found["x-ratelimit-reset"] = String(timeOf(limited, decision.verdicts[i]!))
  }
  if (!decision.isAdmitted && Number.isFinite(decision.wait)) found["retry-after"] = String(seconds(decision.wait))
  return found
}

const isRequest = (message: Envelope): message is Request<unknown> => message.kind === "server"

/**
 * Makes the `onDecision` of `RateLimit` that adds the headers to answers, for admitted and for refused requests. With several
 * limits around one handler, the draft's headers name all of them, and the legacy headers describe the innermost.
 *
 * Does nothing for a message that is not a server request, so the same limit may also be placed around a consumer.
 *
 * **Example** (each answer shows the remaining quota)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { RateLimit } from "@millrace/core"
 * import { Caller, RateLimitFields, type Request } from "@millrace/http"
 *
 * const handler = pipe(
 *   (request: Request) => Effect.succeed(request.path),
 *   RateLimit.middleware({ name: "address", by: Caller.address(), limit: 20, onDecision: RateLimitFields.onDecision() })
 * )
 * ```
 */
export const onDecision = (options: Options = {}) => {
  return (message: Envelope, limited: Limited): void => {
    if (!isRequest(message)) return
    const part = compositeKey(...limited.policies.map(({ id }) => id))
    const found = fields(limited, options)
    for (const name in found) {
      if (name !== "retry-after") message.answerField(name, found[name]!, name.startsWith("x-") ? "" : part)
    }
  }
}
