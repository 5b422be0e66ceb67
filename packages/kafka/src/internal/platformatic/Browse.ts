/**
 * Reading what is in a topic without consuming it: fetches from the first position to the last, without a group.
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
 * What can be read of the topic when the stream starts, in order within each partition, and then its end. Messages that come
 * later are not waited for, nor are those of a transaction that its partitions have not heard the end of. Fails with
 * `NotFound` where there is no such topic.
 */
export const browse = (settings: ResolvedOptions, cluster: Cluster, channel: string): Stream.Stream<Delivery, Failed> =>
  Stream.unwrap(Effect.gen(function*() {
    // asked first, so that what is missing is not made
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
      // the leader has it all
      rack: ""
    })
    if (found === undefined || found.error !== 0) throw new ProtocolError(found?.error ?? -1)
    // what is not committed yet is not waited for
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
