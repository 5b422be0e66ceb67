/**
 * The durable consumer of a group: its position in a stream, and the delivered, unsettled messages.
 *
 * An existing consumer is used unchanged, or refused: its owner may have configured it for other programs, too.
 */
import type { BrokerError } from "@millrace/core"
import { AckPolicy, type ConsumerConfig, type ConsumerInfo, DeliverPolicy } from "@nats-io/jetstream"
import type { Effect } from "effect"
import type { ResolvedOptions } from "./Options.ts"
import * as Topology from "./Topology.ts"
import type { Client, Connection } from "../Connection.ts"
import * as Errors from "../Errors.ts"
import * as Names from "../Names.ts"

type Failed = BrokerError.BrokerError

/** A consumer by its stream and its name. */
export interface Durable {
  readonly stream: string
  readonly name: string
}

/** The defaults of a new consumer. */
const defaults = { claim: 30_000, pending: 20_000 }

/** Milliseconds after which the server removes the consumer of a temporary group that no process reads. */
const inactive = 5 * 60_000

const nanoseconds = (milliseconds: number): number => milliseconds * 1_000_000

/** Milliseconds that a reader may keep a message without extending it. */
export const claimOf = ({ ack_wait, backoff }: ConsumerConfig): number =>
  Math.floor(Math.min(ack_wait ?? nanoseconds(defaults.claim), ...backoff ?? []) / 1_000_000)

/** The filters of a consumer, as text, if they do not fit the source; undefined if the consumer reads all of the source. */
const unread = ({ filter_subject, filter_subjects }: ConsumerConfig, source: Topology.Source) => {
  const filters = filter_subjects ?? (filter_subject === undefined ? [] : [filter_subject])
  const wanted = source.filter ?? source.channel
  if (filters.length === 0) return source.filter === undefined ? undefined : "the whole stream"
  const isRead = source.filter === undefined
    ? filters.some((filter) => Names.both(filter, wanted) === wanted)
    : filters.length === 1 && filters[0] === wanted
  return isRead ? undefined : filters.join(", ")
}

/** The reason why an existing consumer cannot serve a group, or undefined if it can. */
const unfit = (config: ConsumerConfig, source: Topology.Source): string | undefined => {
  if (config.deliver_subject !== undefined) return "it pushes its messages"
  if (config.ack_policy !== AckPolicy.Explicit) return `its ack_policy is ${config.ack_policy}, not explicit`
  if ((config.max_deliver ?? -1) > 0) {
    return `it gives a message up after ${config.max_deliver} deliveries (max_deliver), without a dead letter`
  }
  if (config.headers_only === true) return "it delivers headers without bodies (headers_only)"
  if ((config.priority_groups?.length ?? 0) > 0) return "it has priority_groups, and readers here name none"
  const read = unread(config, source)
  return read === undefined ? undefined : `it reads ${read}, not ${source.filter ?? source.channel}`
}

/** The options that differ from a consumer's configuration, as text; undefined if none does. */
const different = (config: ConsumerConfig, { claim, pending }: ResolvedOptions): string | undefined => {
  const found: Array<string> = []
  if (claim !== undefined && config.ack_wait !== nanoseconds(claim)) {
    found.push(`its ack_wait is ${(config.ack_wait ?? 0) / 1_000_000} ms, and consumer.claim says ${claim} ms`)
  }
  if (pending !== undefined && config.max_ack_pending !== pending) {
    found.push(`its max_ack_pending is ${config.max_ack_pending}, and consumer.pending says ${pending}`)
  }
  return found.length === 0 ? undefined : found.join("; ")
}

/** The consumer of a group, or undefined if it does not exist yet. */
export const find = (
  client: Client,
  settings: ResolvedOptions,
  connection: Connection,
  { name, stream }: Durable
): Effect.Effect<ConsumerInfo | undefined, Failed> =>
  Topology.ask(client, settings, connection, "consume", async (manager) => {
    try {
      return await manager.consumers.info(stream, name)
    } catch (error) {
      if (Topology.isMissing(error)) return undefined
      throw error
    }
  })

/** Removes the consumer of a group, and with it the group's position. */
export const remove = (
  client: Client,
  settings: ResolvedOptions,
  connection: Connection,
  { name, stream }: Durable
): Effect.Effect<unknown, Failed> =>
  Topology.ask(client, settings, connection, "consume", (manager) => manager.consumers.delete(stream, name))

/** The consumer's settings that a group needs. */
export interface Wanted {
  readonly source: Topology.Source
  readonly from: "earliest" | "latest"
  readonly group: string
  readonly channel: string
  readonly temporary: boolean
}

/** Finds or creates the consumer of a group; from its creation on the server keeps the group's position. */
export const ensure = (
  client: Client,
  settings: ResolvedOptions,
  connection: Connection,
  { name, stream }: Durable,
  { channel, from, group, source, temporary }: Wanted
): Effect.Effect<ConsumerInfo, Failed> =>
  Topology.ask(client, settings, connection, "consume", async (manager) => {
    let info: ConsumerInfo
    try {
      info = await manager.consumers.info(stream, name)
    } catch (error) {
      if (!Topology.isMissing(error)) throw error
      const { filter } = source
      return await manager.consumers.add(stream, {
        durable_name: name,
        ack_policy: AckPolicy.Explicit,
        deliver_policy: from === "latest" ? DeliverPolicy.New : DeliverPolicy.All,
        max_deliver: -1,
        ack_wait: nanoseconds(settings.claim ?? defaults.claim),
        max_ack_pending: settings.pending ?? defaults.pending,
        ...(filter === undefined ? {} : { filter_subject: filter }),
        ...(temporary ? { inactive_threshold: nanoseconds(inactive) } : {})
      })
    }
    const why = unfit(info.config, source)
    if (why !== undefined) {
      throw Errors.make(
        "consume",
        "Conflict",
        `The consumer ${name} of stream ${stream} cannot be that of group ${group}: ${why}. Use another group, or delete it.`
      )
    }
    const differs = different(info.config, settings)
    if (differs !== undefined) {
      throw Errors.make(
        "consume",
        "Conflict",
        `The consumer ${name} of stream ${stream} is not as group ${group} wants it: ${differs}. Leave the option out to use the consumer as it is, or change the consumer (nats consumer edit ${stream} ${name}).`
      )
    }
    return info
  }, { channel, group })
