/** What every variant answers. */
export const order = { id: "7", customer: "ada", amount: 42, lines: ["a", "b"] }

/** So many requests a second, which never come. */
export const limit = 1_000_000_000

/** The keys of requests that were answered before: none of the load's. */
export const seen = new Map<string, object>()

export const correlation = "x-correlation-id"

/** A token bucket for each route, as a program without a library writes it. */
export class Bucket {
  private tokens = limit
  private last = performance.now()
  take(): boolean {
    const now = performance.now()
    this.tokens = Math.min(limit, this.tokens + (now - this.last) * limit / 1000)
    this.last = now
    if (this.tokens < 1) return false
    this.tokens -= 1
    return true
  }
}
