/**
 * The durable consumer of a group: its place in a stream, and what of it is delivered and not settled.
 */
import type { BrokerError } from "@millrace/core"
import { AckPolicy, type ConsumerConfig, type ConsumerInfo, DeliverPolicy } from "@nats-io/jetstream"
import type { Effect } from "effect"
import type { Settings } from "./JetStreamOptions.ts"
import * as JetStreamStreams from "./JetStreamStreams.ts"
import type { Client, Session } from "./NatsClient.ts"
import * as NatsError from "./NatsError.ts"

type Failed = BrokerError.BrokerError

/** A consumer by its stream and its name. */
export interface Durable {
  readonly stream: string
  readonly name: string
}

const nanoseconds = (milliseconds: number): number => milliseconds * 1_000_000

/** Why a consumer that is there cannot be a group's, or undefined where it can. */
const unfit = (config: ConsumerConfig, filter: string | undefined): string | undefined => {
  if (config.deliver_subject !== undefined) return "it pushes its messages"
  if (config.ack_policy !== AckPolicy.Explicit) return `its ack_policy is ${config.ack_policy}, not explicit`
  if ((config.max_deliver ?? -1) > 0) {
    return `it gives a message up after ${config.max_deliver} deliveries (max_deliver), without a dead letter`
  }
  // all of a stream that holds one subject is that subject
  return filter !== undefined && config.filter_subject !== filter
    ? `it reads ${config.filter_subject ?? "the whole stream"}, not ${filter}`
    : undefined
}

/** The consumer of a group, or undefined where there is none yet. */
export const find = (
  client: Client,
  settings: Settings,
  session: Session,
  { name, stream }: Durable
): Effect.Effect<ConsumerInfo | undefined, Failed> =>
  JetStreamStreams.ask(client, settings, session, "consume", async (manager) => {
    try {
      return await manager.consumers.info(stream, name)
    } catch (error) {
      if (JetStreamStreams.isMissing(error)) return undefined
      throw error
    }
  })

/** The consumer of a group, made where there is none yet: from then on the server keeps its place. */
export const ensure = (
  client: Client,
  settings: Settings,
  session: Session,
  durable: Durable,
  wanted: {
    readonly filter: string | undefined
    readonly from: "earliest" | "latest"
    readonly group: string
    readonly channel: string
  }
): Effect.Effect<ConsumerInfo, Failed> => {
  const { channel, filter, from, group } = wanted
  const { name, stream } = durable
  const changing = { ack_wait: nanoseconds(settings.claim), max_ack_pending: settings.pending }
  return JetStreamStreams.ask(client, settings, session, "consume", async (manager) => {
    let info: ConsumerInfo
    try {
      info = await manager.consumers.info(stream, name)
    } catch (error) {
      if (!JetStreamStreams.isMissing(error)) throw error
      return await manager.consumers.add(stream, {
        durable_name: name,
        ack_policy: AckPolicy.Explicit,
        deliver_policy: from === "latest" ? DeliverPolicy.New : DeliverPolicy.All,
        max_deliver: -1,
        ...changing,
        ...(filter === undefined ? {} : { filter_subject: filter })
      })
    }
    const why = unfit(info.config, filter)
    if (why !== undefined) {
      throw NatsError.make(
        "consume",
        "Conflict",
        `The consumer ${name} of stream ${stream} cannot be that of group ${group}: ${why}. Use another group, or delete it.`
      )
    }
    const isSame = info.config.ack_wait === changing.ack_wait &&
      info.config.max_ack_pending === changing.max_ack_pending
    return isSame ? info : await manager.consumers.update(stream, name, changing)
  }, { channel, group })
}
