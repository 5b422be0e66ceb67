/**
 * Codecs without an outside library: Avro, MessagePack, codecs with a schema registry, versions of payloads; CloudEvents around
 * any codec; and compression.
 */
export * as Avro from "./Avro.ts"
export * as CloudEvents from "./CloudEvents.ts"
export * as Compatibility from "./Compatibility.ts"
export * as Compression from "./Compression.ts"
export * as Csv from "./Csv.ts"
export * as MessagePack from "./MessagePack.ts"
export * as SchemaRegistry from "./SchemaRegistry.ts"
export * as Text from "./Text.ts"
export * as Upcast from "./Upcast.ts"
