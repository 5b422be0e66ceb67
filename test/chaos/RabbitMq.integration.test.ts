import { underChaos } from "./underChaos.ts"

underChaos("rabbitmq")
