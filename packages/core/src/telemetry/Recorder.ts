/**
 * Counts of one channel, updated in place: readers pay for computing the figures, messages do not.
 */
import type { Exit } from "effect"
import type { Exchange } from "../message/Exchange.ts"
import { classOf, type FailureClass, tagOf } from "../message/Failure.ts"
import { type Distribution, Histogram } from "./Histogram.ts"
import { type Envelope, Message, type Origin } from "../message/Message.ts"
import { destinationOf } from "./Conventions.ts"
import * as Ending from "./Ending.ts"
import * as Lost from "./Lost.ts"
import { answerOf, type Labels } from "./Series.ts"

/** Errors of one tag. */
export interface ErrorStatistics {
  /** The error's tag, or `other` for tags beyond the limit. */
  readonly tag: string
  /** The class of the first error of this tag. */
  readonly failure: FailureClass | undefined
  readonly count: number
  /** Milliseconds from the call to the failure. */
  readonly duration: Distribution
}

/** Statistics of one channel; for consumers, of one group. Counts are since the registry was made. */
export interface ChannelStatistics {
  readonly kind: Envelope["kind"]
  /** The channel; its address if that has parameters; `other` for channels beyond the registry's limit. */
  readonly channel: string
  readonly group: string | undefined
  /** Deliveries counted by `Metrics.received`, including filtered ones; 0 if that middleware is not in the chain. */
  readonly received: number
  /** Calls started: the sum of `inFlight` and the five fields below. */
  readonly started: number
  readonly inFlight: number
  readonly done: number
  readonly failed: number
  readonly interrupted: number
  readonly retried: number
  readonly rejected: number
  /** Bytes of the bodies of started calls. */
  readonly bytes: number
  /** Milliseconds of all ended and timed calls, except interrupted ones; quantiles err by at most 0.8 %. */
  readonly duration: Distribution
  /** Most frequent first. */
  readonly errors: ReadonlyArray<ErrorStatistics>
}

const nanosInMilli = 1e-6

/** Is told of the calls that failed, were refused with an error, or were slow; other calls cost it nothing. */
export interface Observer {
  /** Nanoseconds from which a call is slow; Infinity for never. */
  readonly slow: number
  /** Is called as a call ends; `nanos` is -1 if the call was not timed. A throw is dropped and reported once. */
  readonly ended: (message: Envelope, exit: Exit.Exit<unknown, unknown>, nanos: number, ending: Ending.Ending) => void
}

const noObserver: Observer = { slow: Infinity, ended: () => undefined }

const done: Ending.Ending = { status: "done", error: undefined }

interface Errors {
  readonly tag: string
  readonly failure: FailureClass | undefined
  count: number
  readonly nanos: Histogram
}

/** The counts of one channel. */
export class Recorder {
  readonly kind: Envelope["kind"]
  readonly channel: string
  readonly group: string | undefined
  readonly counts = { done: 0, failed: 0, interrupted: 0, retried: 0, rejected: 0 }
  received = 0
  started = 0
  inFlight = 0
  bytes = 0
  #origin: Origin | undefined
  readonly #nanos = new Histogram()
  readonly #errors = new Map<string, Errors>()
  readonly #tags: number
  readonly #isRequest: boolean
  readonly #added: (end: Labels, nanos: Histogram) => void
  readonly #observer: Observer
  readonly #slow: number
  /** Durations of HTTP requests, by method, status and error. */
  readonly #answers = new Map<string, Histogram>()

  constructor(
    message: Envelope,
    channel: string,
    tags: number,
    added: (end: Labels, nanos: Histogram) => void,
    observer: Observer = noObserver
  ) {
    this.kind = message.kind
    this.channel = channel
    this.group = groupOf(message)
    this.#tags = tags
    this.#isRequest = message.exchange !== undefined
    this.#added = added
    this.#observer = observer
    this.#slow = observer.slow
    if (!this.#isRequest) added({}, this.#nanos)
  }

  /** Tells whether this recorder counts the message. */
  serves(message: Envelope): boolean {
    const origin = message instanceof Message ? message.delivery.origin : undefined
    if (origin !== undefined && origin === this.#origin) return true
    if (destinationOf(message) !== this.channel || origin?.group !== this.group || message.kind !== this.kind) {
      return false
    }
    this.#origin = origin
    return true
  }

  /** Counts the start of a call, with the size of its body. */
  begin(bytes: number): void {
    this.started += 1
    this.inFlight += 1
    this.bytes += bytes
  }

  /** Counts the end of a call, after `nanos`; -1 if it was not timed. */
  end(message: Envelope, exit: Exit.Exit<unknown, unknown>, nanos: number): void {
    this.inFlight -= 1
    if (message.exchange !== undefined) return this.#endRequest(message, message.exchange, exit, nanos)
    if (exit._tag === "Success" && typeof exit.value !== "object") {
      this.counts.done += 1
      if (nanos >= 0) this.#nanos.record(nanos)
      if (nanos >= this.#slow) this.#tell(message, exit, nanos, done)
      return
    }
    const ending = Ending.of(exit)
    const { error, status } = ending
    this.#tell(message, exit, nanos, ending)
    this.counts[status] += 1
    const errors = status === "failed" ? this.#errorsOf(error) : undefined
    if (errors !== undefined) errors.count += 1
    if (nanos >= 0 && status !== "interrupted") (errors?.nanos ?? this.#nanos).record(nanos)
  }

  #endRequest(message: Envelope, exchange: Exchange, exit: Exit.Exit<unknown, unknown>, nanos: number): void {
    const ending = Ending.ofMessage(message, exit)
    const { error, status, statusCode } = ending
    this.#tell(message, exit, nanos, ending)
    this.counts[status] += 1
    const errors = status !== "done" && error !== undefined ? this.#errorsOf(error) : undefined
    if (errors !== undefined) errors.count += 1
    if (nanos < 0 || status === "interrupted") return
    ;(errors?.nanos ?? this.#nanos).record(nanos)
    const end = answerOf(
      this.kind,
      exchange,
      statusCode,
      status !== "failed" ? undefined : Ending.isStatus(this.kind, statusCode) ? String(statusCode) : errors?.tag
    )
    const key = Object.values(end).join(" ")
    let answers = this.#answers.get(key)
    if (answers === undefined) {
      this.#answers.set(key, answers = new Histogram())
      this.#added(end, answers)
    }
    answers.record(nanos)
  }

  #tell(message: Envelope, exit: Exit.Exit<unknown, unknown>, nanos: number, ending: Ending.Ending): void {
    const { error, status } = ending
    if (status !== "failed" && (status !== "rejected" || error === undefined)) {
      if (nanos < this.#slow || status === "interrupted") return
    }
    try {
      this.#observer.ended(message, exit, nanos, ending)
    } catch (defect) {
      Lost.tell("An observer of metrics", defect)
    }
  }

  #errorsOf(error: unknown): Errors {
    const own = (typeof error === "number" ? String(error) : tagOf(error)).slice(0, maximumTag)
    const tag = this.#errors.has(own) || this.#errors.size < this.#tags ? own : other
    let errors = this.#errors.get(tag)
    if (errors === undefined) {
      errors = { tag, failure: tag === other ? undefined : classOf(error), count: 0, nanos: new Histogram() }
      this.#errors.set(tag, errors)
      if (!this.#isRequest) this.#added({ "error.type": tag }, errors.nanos)
    }
    return errors
  }

  statistics(): ChannelStatistics {
    const nanos = new Histogram()
    nanos.merge(this.#nanos)
    for (const errors of this.#errors.values()) nanos.merge(errors.nanos)
    return {
      kind: this.kind,
      channel: this.channel,
      group: this.group,
      received: this.received,
      started: this.started,
      inFlight: this.inFlight,
      ...this.counts,
      bytes: this.bytes,
      duration: nanos.distribution(nanosInMilli),
      errors: [...this.#errors.values()].sort((a, b) => b.count - a.count).map(({ count, failure, nanos, tag }) => ({
        tag,
        failure,
        count,
        duration: nanos.distribution(nanosInMilli)
      }))
    }
  }
}

/** The channel of messages, and the tag of errors, beyond the limits. */
export const other = "other"
const maximumTag = 100

/** Returns the consumer group of a message, if it has one. */
export const groupOf = (message: Envelope): string | undefined =>
  message instanceof Message ? message.delivery.origin.group : undefined
