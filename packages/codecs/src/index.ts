/**
 * Codecs without an outside library: Avro and MessagePack.
 */
export * as Avro from "./Avro.ts"
export * as MessagePack from "./MessagePack.ts"
