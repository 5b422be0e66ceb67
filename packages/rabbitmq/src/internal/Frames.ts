/**
 * Keeps the frame of a message's properties, because amqplib decodes it with a loss: numbers become doubles without a type.
 *
 * The frame is a reference into amqplib's own buffer, which the body of the message keeps in memory anyway.
 */
import type { ChannelModel, Message } from "amqplib"

const raw: unique symbol = Symbol("millrace/frame")

interface Properties {
  [raw]?: Buffer
  readonly headers?: unknown
}

/** The parts of amqplib's connection in use here, which its types omit. */
interface Connection {
  /** Received bytes that are not parsed yet, from the start of a frame. */
  rest: Buffer
  /** Reads the next frame; calls itself again if more bytes had to be received. */
  recvFrame: () => { readonly size?: number; readonly fields?: Properties } | false
}

const isConnection = (value: unknown): value is Connection =>
  typeof value === "object" && value !== null && Buffer.isBuffer(Reflect.get(value, "rest")) &&
  typeof Reflect.get(value, "recvFrame") === "function"

/** Keeps the frames of all properties that a connection receives. Does nothing with an amqplib of a different structure. */
export const keep = (model: ChannelModel): void => {
  const connection: unknown = model.connection
  if (!isConnection(connection)) return
  const { recvFrame } = connection
  connection.recvFrame = () => {
    const { rest } = connection
    const frame = recvFrame.call(connection)
    // only a frame of properties has a size and headers; if the frame had to be received first, the nested call has kept it
    if (frame !== false && frame.size !== undefined) {
      const { fields } = frame
      if (fields?.headers !== undefined && fields[raw] === undefined) fields[raw] = rest
    }
    return frame
  }
}

/** Finds the frame of a message's properties, from its first byte; undefined if it was not kept. */
export const rawOf = ({ properties }: Message): Buffer | undefined => (properties as Properties)[raw]
