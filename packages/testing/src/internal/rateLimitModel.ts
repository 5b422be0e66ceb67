/**
 * The model of a rate limit, as short as possible: whether it admits a cost at a time. All answers of a store follow from
 * this, by trying each millisecond.
 */
import type { RateLimit } from "@millrace/core"

/** One key of one policy. */
interface Model {
  readonly admits: (time: number, cost: number) => boolean
  readonly spend: (turn: number, cost: number, lease: number, now: number) => void
  readonly release?: (lease: number) => void
  readonly renew?: (lease: number, now: number) => boolean
}

/**
 * A bucket filled by `limit` parts each millisecond; a message takes `window` parts. Before a reserved turn it has the level
 * of that turn.
 */
const bucket = ({ burst, limit, window }: RateLimit.Policy): Model => {
  let [parts, at] = [burst * window, 0]
  const level = (time: number) => Math.min(burst * window, parts + (time - at) * limit)
  return {
    admits: (time, cost) => cost <= burst && level(time) >= cost * window,
    spend: (turn, cost, _lease, now) => {
      // a turn that this bucket decided lies between two milliseconds, so it is counted from now
      const from = level(turn - 1) < cost * window ? now : turn
      ;[parts, at] = [level(from) - cost * window, from]
    }
  }
}

const fixedWindow = ({ limit, window }: RateLimit.Policy): Model => {
  let [last, count] = [-1, 0]
  return {
    admits: (time, cost) => {
      const own = Math.floor(time / window)
      return cost <= limit && own >= last && (own > last || count + cost <= limit)
    },
    spend: (turn, cost) => {
      const own = Math.floor(turn / window)
      ;[last, count] = [own, (own === last ? count : 0) + cost]
    }
  }
}

const slidingCounter = ({ limit, window }: RateLimit.Policy): Model => {
  const counts = new Map<number, number>()
  let last = -1
  return {
    admits: (time, cost) => {
      const own = Math.floor(time / window)
      const [previous = 0, current = 0] = [counts.get(own - 1), counts.get(own)]
      return cost <= limit && own >= last &&
        previous * (window - time % window) + (current + cost) * window <= limit * window
    },
    spend: (turn, cost) => {
      last = Math.floor(turn / window)
      counts.set(last, (counts.get(last) ?? 0) + cost)
    }
  }
}

const slidingLog = ({ limit, window }: RateLimit.Policy): Model => {
  const log: Array<number> = []
  return {
    admits: (time, cost) =>
      time >= (log.at(-1) ?? 0) && log.filter((each) => each > time - window).length + cost <= limit,
    spend: (turn, cost) => {
      for (let i = 0; i < cost; i++) log.push(turn)
    }
  }
}

const concurrency = ({ limit, window }: RateLimit.Policy): Model => {
  let places: Array<{ lease: number; end: number }> = []
  return {
    admits: (time, cost) => places.filter(({ end }) => end > time).length + cost <= limit,
    spend: (turn, cost, lease) => {
      for (let i = 0; i < cost; i++) places.push({ lease, end: turn + window })
    },
    release: (lease) => void (places = places.filter((each) => each.lease !== lease)),
    renew: (lease, now) => {
      const own = places.filter((each) => each.lease === lease && each.end > now)
      for (const each of own) each.end = now + window
      return own.length > 0
    }
  }
}

const models = { gcra: bucket, tokenBucket: bucket, fixedWindow, slidingCounter, slidingLog, concurrency }

/** The first time from `from` on at which `isSo` holds, or Infinity; no wait of the suite is longer than 100,000 ms. */
const first = (from: number, isSo: (time: number) => boolean): number => {
  for (let time = from; time < from + 100_000; time++) if (isSo(time)) return time
  return Infinity
}

/** The keys of a store. */
export class Reference {
  private readonly all = new Map<string, Model>()

  private of({ key, policy }: RateLimit.Charge): Model {
    const id = `${policy.id}\n${key}`
    const known = this.all.get(id)
    if (known !== undefined) return known
    const made = models[policy.algorithm](policy)
    this.all.set(id, made)
    return made
  }

  /** The decision that a store must make at this time; the model takes over the store's lease. */
  take(charges: ReadonlyArray<RateLimit.Charge>, within: number, now: number, lease: number): RateLimit.Decision {
    const waits = charges.map((charge) =>
      charge.cost > charge.policy.burst
        ? Infinity
        : first(now, (time) => this.of(charge).admits(time, charge.cost)) - now
    )
    const refusals = waits.map((wait, i) =>
      charges[i]!.policy.algorithm === "concurrency" ? wait : Math.max(0, wait - within)
    )
    const isAdmitted = Math.max(...refusals) === 0
    const wait = Math.max(...waits)
    if (isAdmitted) {
      for (const charge of charges) {
        if (charge.cost > 0) this.of(charge).spend(now + wait, charge.cost, lease, now)
      }
    }
    return {
      isAdmitted,
      wait: isAdmitted ? wait : Math.max(...refusals),
      verdicts: charges.map((charge, i) => {
        const model = this.of(charge)
        const costs = Array.from({ length: charge.policy.burst }, (_, i) => i + 1)
        return {
          wait: waits[i]!,
          remaining: costs.findLast((cost) => model.admits(now, cost)) ?? 0,
          reset: first(now, (time) => model.admits(time, charge.policy.burst)) - now
        }
      }),
      at: now,
      lease
    }
  }

  release(charges: ReadonlyArray<RateLimit.Charge>, lease: number): void {
    for (const charge of charges) this.of(charge).release?.(lease)
  }

  renew(charges: ReadonlyArray<RateLimit.Charge>, lease: number, now: number): boolean {
    return charges.map((charge) => this.of(charge).renew?.(lease, now) ?? true).every((isHeld) => isHeld)
  }
}
