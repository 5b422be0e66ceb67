/** Moleculer's channels as a reader of a real broker, wired as their documents say: eight middlewares around the handler. */
import channels from "@moleculer/channels"
import { type Middleware, Serializers, ServiceBroker } from "moleculer"

type Handler = (...args: ReadonlyArray<unknown>) => Promise<unknown>

let hops = 0
/** The hook that the channels call; the broker's own types do not know it. */
const middleware: Middleware & { readonly localChannel: (next: Handler) => Handler } = {
  localChannel: (next) => async (...args) => {
    hops++
    return await next(...args)
  }
}

/** Bodies are bytes for everybody here. */
class Bytes extends Serializers.Base {
  override serialize(body: Buffer): Buffer {
    return body
  }
  override deserialize(body: Buffer): Buffer {
    return body
  }
}

/** A broker that listens; it acknowledges what its handler has finished, each message by itself. */
export const listen = async (
  type: "AMQP" | "Kafka" | "NATS" | "Redis",
  options: object,
  channel: { readonly name: string; readonly group: string; readonly [option: string]: unknown },
  handle: (body: Buffer) => void
): Promise<ServiceBroker> => {
  const adapter = new channels.Adapters[type]({ ...options, serializer: new Bytes() } as never)
  // it only warns, and reads for that a file that amqplib 2 does not export
  adapter.checkClientLibVersion = () => true
  const broker = new ServiceBroker({
    logger: false,
    metrics: false,
    tracing: false,
    middlewares: [
      // its types know only an adapter that it makes itself
      channels.Middleware({ adapter } as never),
      ...Array.from({ length: 8 }, () => middleware)
    ]
  })
  const service = { name: "bench", channels: { [channel.name]: { ...channel, handler: handle } } }
  broker.createService(service)
  await broker.start()
  return broker
}
