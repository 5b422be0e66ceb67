/**
 * Millrace on RabbitMQ, by amqplib.
 */
export * as RabbitMq from "./RabbitMq.ts"
