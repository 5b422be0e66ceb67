/**
 * Protocol Buffers as a codec, alone and with a schema registry.
 */
export * as Protobuf from "./Protobuf.ts"
export * as ProtobufRegistry from "./ProtobufRegistry.ts"
