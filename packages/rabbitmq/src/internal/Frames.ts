/**
 * The frame that a message's properties came in. amqplib decodes it with a loss: numbers become doubles without a type.
 *
 * It is kept by reference, in amqplib's own buffer, which the body of the message keeps in memory anyway.
 */
import type { ChannelModel, Message } from "amqplib"

const raw: unique symbol = Symbol("millrace/frame")

interface Properties {
  [raw]?: Buffer
  readonly headers?: unknown
}

/** The parts of amqplib's connection that are used here; its types do not have them. */
interface Connection {
  /** Received bytes that are not yet read; a frame begins at the first. */
  rest: Buffer
  /** Reads the next frame, or calls itself again once more was received. */
  recvFrame: () => { readonly size?: number; readonly fields?: Properties } | false
}

const isConnection = (value: unknown): value is Connection =>
  typeof value === "object" && value !== null && Buffer.isBuffer(Reflect.get(value, "rest")) &&
  typeof Reflect.get(value, "recvFrame") === "function"

/** Keeps the frames of the properties that come on a connection. Does nothing with an amqplib that is built differently. */
export const keep = (model: ChannelModel): void => {
  const connection: unknown = model.connection
  if (!isConnection(connection)) return
  const { recvFrame } = connection
  connection.recvFrame = () => {
    const { rest } = connection
    const frame = recvFrame.call(connection)
    // only a frame of properties has a size and headers; one that had to be received first was seen by the call inside
    if (frame !== false && frame.size !== undefined) {
      const { fields } = frame
      if (fields?.headers !== undefined && fields[raw] === undefined) fields[raw] = rest
    }
    return frame
  }
}

/** The frame of a message's properties, from its first byte; undefined where it was not kept. */
export const rawOf = ({ properties }: Message): Buffer | undefined => (properties as Properties)[raw]
