/**
 * Millrace on MQTT 5 by mqtt.js.
 */
export * as Mqtt from "./Mqtt.ts"
