/**
 * Reads the messages of a topic without consuming them: fetches from the first position to the last, without a group.
 */
import type { BrokerError, Delivery } from "@millrace/core"
import { ProtocolError } from "@platformatic/kafka"
import { Effect, Option, Stream } from "effect"
import type { Bounds, Cluster } from "../Cluster.ts"
import * as Errors from "../Errors.ts"
import type { ResolvedOptions } from "../Options.ts"
import * as Topology from "../Topology.ts"
import { fetch } from "./Fetch.ts"
import { find } from "./Leaders.ts"
import * as Codec from "./Codec.ts"
import { type Connection, open } from "./Connection.ts"

type Failed = BrokerError.BrokerError

/**
 * Streams the messages that are readable when the stream starts, in order within each partition, and then ends. The stream
 * does not wait for later messages, nor for those of a transaction whose end its partitions have not recorded. Fails with
 * `NotFound` if the topic does not exist.
 */
export const browse = (settings: ResolvedOptions, cluster: Cluster, channel: string): Stream.Stream<Delivery, Failed> =>
  Stream.unwrap(Effect.gen(function*() {
    // checked first, so that a missing topic is not created
    yield* Errors.attempt(settings.place, "browse", () => cluster.leaders(channel), { channel })
    const bounds = yield* Topology.bounds(settings, cluster, "browse", channel)
    const connection = yield* open(settings)
    const left = bounds.filter(({ high, low }) => high > low)
    return Stream.flatMap(Stream.fromIterable(left), (bounds) => partition(settings, connection, channel, bounds))
  }))

const partition = (
  settings: ResolvedOptions,
  connection: Connection,
  channel: string,
  { high, low, partition }: Bounds
): Stream.Stream<Delivery, Failed> => {
  const origin = Topology.browsed(channel, partition)
  const more = async (position: number): Promise<readonly [Array<Delivery>, number | undefined]> => {
    const { brokers, topics } = await find(connection, [channel], false)
    const topic = topics.get(channel)
    const broker = brokers.get(topic?.leaders[partition] ?? -1)
    if (topic === undefined || broker === undefined) throw new ProtocolError(5)
    const [found] = await fetch(connection, broker, [{ topicId: topic.id, partition, position }], {
      ...settings.consumer,
      // the leader has all messages
      rack: ""
    })
    if (found === undefined || found.error !== 0) throw new ProtocolError(found?.error ?? -1)
    // does not wait for messages of open transactions
    if (found.bytes === undefined) return [[], undefined]
    const deliveries: Array<Delivery> = []
    const next = Codec.read(found.bytes, origin, position, found.aborted, deliveries)
    return [deliveries.filter(({ position }) => position < high), next >= high || next === position ? undefined : next]
  }
  return Stream.paginate(low, (position) =>
    Effect.map(
      Errors.attempt(settings.place, "browse", () => more(position), { channel }),
      ([deliveries, next]) => [deliveries, next === undefined ? Option.none() : Option.some(next)] as const
    ))
}
