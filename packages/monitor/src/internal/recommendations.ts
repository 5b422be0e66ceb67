/**
 * What to look at first when an error of a class appears, and the page that helps.
 */
import type { Failure } from "@millrace/core"

interface Recommendation {
  readonly recommendation: string
  readonly runbook: string
}

const byClass: { readonly [Class in Failure.FailureClass]: Recommendation } = {
  transient: {
    recommendation:
      "Retries usually succeed. If the count grows, look at the dependency behind it, and raise the backoff.",
    runbook: "docs/retry.md"
  },
  permanent: {
    recommendation:
      "The message can never succeed. Read its dead letter, mend the sender or the handler, then replay it.",
    runbook: "docs/dead-letter.md"
  },
  throttled: {
    recommendation: "A limit refuses calls. Compare the rate with the limit, and let the sender wait for retryAfter.",
    runbook: "docs/rate-limit.md"
  },
  poison: {
    recommendation: "The bytes cannot be decoded. Compare the sender's schema and codec with the channel's.",
    runbook: "docs/decode.md"
  },
  conflict: {
    recommendation: "Two workers want the same thing. Give messages of one entity one key, or lengthen the lease.",
    runbook: "docs/idempotency.md"
  },
  timeout: {
    recommendation:
      "Handling takes longer than its limit. Look at the slow calls, and at the dependency they wait for.",
    runbook: "docs/timeout.md"
  },
  auth: {
    recommendation: "Senders are refused. Look whether a key or a secret has expired; if not, whether it is an attack.",
    runbook: "docs/auth.md"
  },
  validation: {
    recommendation: "The content is refused. Tell the sender which field is wrong; the dead letter names it.",
    runbook: "docs/decode.md"
  },
  dependency: {
    recommendation: "A dependency is down. Look at the health report, and put a circuit breaker around it.",
    runbook: "docs/resilience.md"
  },
  defect: {
    recommendation: "The program has a bug. Look for the release in which the group was first seen.",
    runbook: "docs/monitoring.md"
  }
}

/** Returns the recommendation for a class; an error without a class is a bug. */
export const recommendationOf = (failure: Failure.FailureClass | undefined): Recommendation =>
  byClass[failure ?? "defect"]
