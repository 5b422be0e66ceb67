import { underChaos } from "./underChaos.ts"

underChaos("redis-pubsub")
