/**
 * Channels of amqplib, and requests that run on a separate channel.
 */
import type { Channel, ChannelModel, ConfirmChannel } from "amqplib"
import type { Connection } from "./Connection.ts"

/** Opens a plain channel. */
export const plain = (model: ChannelModel): Promise<Channel> => model.createChannel()

/** Opens a channel with publisher confirms. */
export const confirming = (model: ChannelModel): Promise<ConfirmChannel> => model.createConfirmChannel()

/** Runs requests on a separate channel, because RabbitMQ closes the channel of a refused request. */
export const using = async <C extends Channel, A>(
  connection: Connection,
  make: (model: ChannelModel) => Promise<C>,
  run: (channel: C) => Promise<A>
): Promise<A> => {
  const { channel, why } = await connection.channel(make)
  try {
    return await run(channel)
  } catch (error) {
    // for pending requests amqplib says only that there will be no answer
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
    // the channel is closed already
  }
}
