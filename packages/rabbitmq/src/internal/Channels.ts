/**
 * Channels of amqplib, and requests on a channel of their own.
 */
import type { Channel, ChannelModel, ConfirmChannel } from "amqplib"
import type { Connection } from "./Connection.ts"

/** A plain channel. */
export const plain = (model: ChannelModel): Promise<Channel> => model.createChannel()

/** A channel on which RabbitMQ confirms each message. */
export const confirming = (model: ChannelModel): Promise<ConfirmChannel> => model.createConfirmChannel()

/** Runs requests on a channel of their own: one that is refused closes its channel. */
export const using = async <C extends Channel, A>(
  connection: Connection,
  make: (model: ChannelModel) => Promise<C>,
  run: (channel: C) => Promise<A>
): Promise<A> => {
  const { channel, why } = await connection.channel(make)
  try {
    return await run(channel)
  } catch (error) {
    // of requests that were waiting amqplib says only that there will be no answer
    throw error instanceof Error && /^Channel ended|^channel closed/.test(error.message) ? why() : error
  } finally {
    await close(channel)
  }
}

/** Closes a channel, if it is open. */
export const close = async (channel: Channel): Promise<void> => {
  try {
    await channel.close()
  } catch {
    // it is closed
  }
}
