import type { RabbitMq } from "@millrace/rabbitmq"
import type { RabbitMq as Servers } from "@millrace/testing/servers"

export { bytes, eventually, fresh, outgoing, textOf } from "../services/driving.ts"

/** How tests connect. */
export const optionsOf = (server: Servers.RabbitMqServer, more?: Partial<RabbitMq.Options>): RabbitMq.Options => ({
  url: server.url,
  ...more
})
