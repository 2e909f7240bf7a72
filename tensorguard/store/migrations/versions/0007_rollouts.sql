-- Deployments in stages: gates, schedules, approvals and rollbacks.

-- A fleet may demand a second person for each deployment that concerns it.
ALTER TABLE fleets ADD COLUMN deployments_need_approval boolean NOT NULL DEFAULT false;

-- When it is to begin, and which approval lets it.
ALTER TABLE deployments
    ADD COLUMN start_at timestamptz,
    ADD COLUMN approval_id uuid REFERENCES approvals;

-- How many agents of the stage had to get the release at the start. `gate` is what its gate said
-- when it decided something.
ALTER TABLE deployment_stages ADD COLUMN due integer;

-- assigned_at: when the document was signed that an agent now has or will have of this deployment;
-- none: it waits for its turn. rollback: how far the agent is on its way back.
ALTER TABLE deployment_agents
    ADD COLUMN assigned_at timestamptz,
    ADD COLUMN rollback text CHECK (rollback IN ('waiting', 'assigned', 'done', 'failed',
                                                 'superseded', 'gone')),
    ADD COLUMN rollback_reason text NOT NULL DEFAULT '';
UPDATE deployment_agents AS row SET assigned_at = coalesce(row.notified_at, row.updated_at)
FROM agent_desired AS document
WHERE document.agent_id = row.agent_id AND document.deployment_id = row.deployment_id;
UPDATE deployment_agents SET assigned_at = notified_at
WHERE assigned_at IS NULL AND notified_at IS NOT NULL;
UPDATE deployment_stages SET due = agents;

-- Commands that no agent has acknowledged are sent again.
CREATE INDEX commands_open_idx ON commands (agent_id) WHERE state IN ('queued', 'sent');
