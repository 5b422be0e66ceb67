/**
 * Codecs without an outside library: Avro, MessagePack, and Avro with a schema registry; CloudEvents around any codec; and compression.
 */
export * as Avro from "./Avro.ts"
export * as CloudEvents from "./CloudEvents.ts"
export * as Compression from "./Compression.ts"
export * as MessagePack from "./MessagePack.ts"
export * as SchemaRegistry from "./SchemaRegistry.ts"
