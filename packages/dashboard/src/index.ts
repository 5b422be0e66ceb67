/**
 * A page and endpoints for the people who run Millrace programs.
 */
export * as Dashboard from "./Dashboard.ts"
export * as MonitorRoutes from "./MonitorRoutes.ts"
