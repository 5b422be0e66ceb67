/**
 * Codecs without an outside library: Avro, MessagePack, and Avro with a schema registry.
 */
export * as Avro from "./Avro.ts"
export * as MessagePack from "./MessagePack.ts"
export * as SchemaRegistry from "./SchemaRegistry.ts"
