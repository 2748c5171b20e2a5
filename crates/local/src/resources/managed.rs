//! What Gateways of the Gateway API bring with them: a workload of proxies, a Service, and an account.

use lateen_model::resource::Resource;
use lateen_model::resource::gateway_api::ManagedGateway;

use super::Resources;

impl Resources {
    /// Adds the workloads, Services and accounts of Gateways. What is written under one of their names stays as it is.
    pub(super) fn add_managed(&mut self) {
        let made: Vec<ManagedGateway> = self
            .kube_gateways()
            .filter_map(|gateway| ManagedGateway::of(gateway, self.gateway_class("", &gateway.spec.gateway_class_name)))
            .collect();
        for gateway in made {
            self.add(gateway.deployment.into());
            self.add(gateway.service.into());
            if let Some(account) = gateway.service_account {
                self.add(account.into());
            }
        }
    }

    fn add(&mut self, resource: Resource) {
        self.by_key.entry(resource.key()).or_insert(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: gw, namespace: shop, labels: {team: x}}\nspec:\n  gatewayClassName: istio\n  listeners: [{name: web, port: 80, protocol: HTTP}, {name: https-web, port: 443, protocol: HTTPS}, {name: again, port: 80, protocol: HTTP, hostname: a.org}]\n";

    fn resources(text: &str) -> Resources {
        let mut resources = Resources::from_text(text);
        resources.add_managed();
        resources
    }

    #[test]
    fn a_gateway_brings_its_proxies_and_their_service() {
        let resources = resources(GATEWAY);
        let service = resources.service("shop", "gw-istio").unwrap();
        let ports: Vec<_> = service.spec.ports.iter().map(|p| (p.name.as_str(), p.port)).collect();
        assert_eq!(ports, [("status-port", 15021), ("http-web", 80), ("https-web", 443)]);
        let deployment = resources.deployment("shop", "gw-istio").unwrap();
        let labels = &deployment.spec.template.metadata.labels;
        assert!(deployment.spec.selector.matches(labels) && service.spec.selector.iter().all(|(k, v)| labels.get(k) == Some(v)));
        assert_eq!(labels["team"], "x");
        assert!(resources.has_service_account("shop", "gw-istio"));
        assert_eq!(deployment.spec.template.spec.service_account_name(), "gw-istio");
    }

    #[test]
    fn what_is_written_stays_and_strangers_bring_nothing() {
        let own = "apiVersion: v1\nkind: Service\nmetadata: {name: gw-istio, namespace: shop}\nspec: {ports: [{port: 9}]}\n---\n";
        let with_own = resources(&format!("{own}{GATEWAY}"));
        assert_eq!(with_own.service("shop", "gw-istio").unwrap().spec.ports.len(), 1);
        assert!(with_own.deployment("shop", "gw-istio").is_some());
        for other in [
            GATEWAY.replace("gatewayClassName: istio", "gatewayClassName: strange"),
            GATEWAY.replace("gatewayClassName: istio", "gatewayClassName: istio-remote"),
            GATEWAY.replace("{team: x}", "{istio.io/rev: canary}"),
            GATEWAY.replace("  listeners", "  addresses: [{type: Hostname, value: own}]\n  listeners"),
        ] {
            assert!(resources(&other).deployments().next().is_none(), "{other}");
        }
    }
}
